"""What travels to the device: build, run, compare, measure. Never imports torch or onnx."""
