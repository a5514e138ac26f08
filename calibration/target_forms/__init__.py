"""A model in the form that a target reads."""
