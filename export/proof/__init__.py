"""Proof that an export computes the same as PyTorch."""
