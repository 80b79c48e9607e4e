"""Exports networks as ONNX files, and runs a model by torch or by onnxruntime."""
