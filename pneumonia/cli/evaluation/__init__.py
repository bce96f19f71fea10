"""Verbs that measure predictions: evaluate, compare."""
