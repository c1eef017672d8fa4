"""Trained networks as ONNX files that any runtime can serve."""
