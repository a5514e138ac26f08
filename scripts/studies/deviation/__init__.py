"""The parts of scripts/studies/deviation/study.py."""
