"""Which layer is the first to differ."""
