"""Make everything that devices need from a checkpoint, in one run that can be resumed."""
