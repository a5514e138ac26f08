"""Loaded models on ONNX Runtime and OpenVINO."""
