"""From a checkpoint to what devices need, in one go that can be resumed."""
