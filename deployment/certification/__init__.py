"""Certificates: proof that a model matches its network, or the first layer where it does not."""
