"""Tiles: how every operation becomes instructions, one module per family."""
