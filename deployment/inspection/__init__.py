"""Properties of a network's modulators and normalizations that matter for deployment."""
