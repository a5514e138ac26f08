"""Checks of what works on a machine."""
