"""The parts of scripts/study_quantization.py."""
