"""A pneumonia detector for embedded devices: train, prune with ADMM, export, score."""

__version__ = "0.1.0"
