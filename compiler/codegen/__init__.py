"""Scheduled tile operations to a program."""
