"""Quantization by training: recipes, rungs, snapping, devices."""
