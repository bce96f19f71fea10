"""Verbs that read or write one model: export, kernels, inspect."""
