"""A lowered network in the form that a target reads."""
