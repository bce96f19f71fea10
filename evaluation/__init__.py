"""Predictions to evidence. Works on prediction files; never loads a model."""
