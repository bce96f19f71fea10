"""Verbs that train and compress."""
