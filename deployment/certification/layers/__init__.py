"""Search for the first layer that differs from its reference."""
