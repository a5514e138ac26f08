"""Certificates: whether a model is what its network was, with the proof and the place where not."""
