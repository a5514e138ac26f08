"""Measurements that the pages in docs/ are written from."""
