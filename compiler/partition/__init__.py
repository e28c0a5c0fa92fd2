"""Partition: one device graph becomes a graph for each of several devices."""
