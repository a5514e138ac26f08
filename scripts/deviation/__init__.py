"""The parts of scripts/study_deviation.py."""
