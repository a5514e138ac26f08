"""Tensor ranges for INT8 and for float16."""
