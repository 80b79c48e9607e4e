"""Exports networks as ONNX files, and runs models with torch or onnxruntime."""
