"""Writes the C and compiles it."""
