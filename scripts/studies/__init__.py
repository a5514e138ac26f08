"""Measurements for the pages in docs/results."""
