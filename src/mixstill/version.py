"""The version, also of a copy that was not installed."""

__version__ = "0.1.0"
