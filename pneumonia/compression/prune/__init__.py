"""Pruning: recipes, methods, rates, stages, purification."""
