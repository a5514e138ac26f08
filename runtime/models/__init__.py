"""ONNX models: the bundled ones, reading, metadata."""
