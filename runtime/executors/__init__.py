"""Executors: each runs a loaded program to its halt, and all leave the same bytes behind."""
