"""Parts of `scripts/train.py`."""
