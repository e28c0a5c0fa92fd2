"""Trained networks as ONNX: the integers of the device, and the real numbers behind them."""
