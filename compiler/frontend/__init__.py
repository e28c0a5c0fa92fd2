"""Models in: ONNX files, the network DSL, IR dumps."""
