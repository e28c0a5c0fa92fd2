"""The laboratory: networks and binaries held against ONNX Runtime, against labels, against other recipes."""
