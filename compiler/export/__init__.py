"""Graphs out: ONNX."""
