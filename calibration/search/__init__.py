"""Search for the convolutions to run in INT8 within a budget."""
