"""Inputs of an evaluation: truth, attributes of images, predictions, thresholds."""
