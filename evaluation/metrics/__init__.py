"""Metrics of boxes, images and probabilities on arrays, and the bootstrap that draws them."""
