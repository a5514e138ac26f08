"""Tools for writing graph passes."""
