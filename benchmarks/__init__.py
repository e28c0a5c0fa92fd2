"""Figures of speed, each beside a yardstick of the same run."""
