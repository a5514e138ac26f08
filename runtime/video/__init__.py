"""Frames of cameras, videos and folders."""
