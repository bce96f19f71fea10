"""Metrics of boxes, images and probabilities, and their bootstrap intervals."""
