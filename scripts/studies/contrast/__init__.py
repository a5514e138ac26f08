"""Study of the contrast at which a network diverges, with and without limits."""
