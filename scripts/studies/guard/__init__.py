"""Study of the limit at which a result counts as wrong."""
