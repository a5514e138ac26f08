"""How far contrast may grow before a network runs away, with limits and without."""
