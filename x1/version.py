"""The one place where the version of the tool is stated."""

__version__ = "0.1.0"
