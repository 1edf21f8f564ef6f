"""Sapwood: prompt it, tune it lightly, or both; measured on your data."""

from sapwood.config import VERSION

__version__ = VERSION

__all__ = ["__version__"]
