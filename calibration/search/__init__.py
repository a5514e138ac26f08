"""Which convolutions are INT8, under a budget."""
