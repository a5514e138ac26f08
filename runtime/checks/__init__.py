"""What works on a machine."""
