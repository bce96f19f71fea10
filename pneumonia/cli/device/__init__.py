"""Verbs of the board: daemon, profile, package."""
