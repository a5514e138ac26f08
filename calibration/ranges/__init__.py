"""Ranges of tensors, for INT8 and for float16."""
