"""Photographs: decoding, arrays, encoding, metrics."""
