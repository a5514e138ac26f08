"""Parts of scripts/studies/performance/study.py."""
