"""Weights as they are stored: dense, coded, in rows, columns and patterns."""
