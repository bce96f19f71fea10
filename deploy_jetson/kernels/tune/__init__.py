"""Chooses each layer's kernel by measuring."""
