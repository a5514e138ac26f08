"""Prove, inspect, bundle and ship what was exported and lowered."""
