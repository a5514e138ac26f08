"""Bundles, as a device reads and verifies them."""
