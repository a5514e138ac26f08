"""Bounds on what decoding a file may take."""
