"""The parts of scripts/studies/tiles/study.py."""
