"""Sapwood: prompt it, tune it lightly, or both; measured on your data."""

__version__ = "0.1.0"
