"""Conversion of a model to the form that a target reads."""
