"""Proof that an export computes what PyTorch does."""
