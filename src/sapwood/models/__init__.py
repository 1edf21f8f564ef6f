"""Nets: the store of bases, loading, and the shared-prefix forward pass."""
