"""Evaluation of prediction files against labels; never loads a model."""
