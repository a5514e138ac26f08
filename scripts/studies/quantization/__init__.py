"""The parts of scripts/studies/quantization/study.py."""
