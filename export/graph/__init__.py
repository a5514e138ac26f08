"""What graph passes are written with."""
