"""Computations on a study: all metrics, subgroups, paired comparisons, error types."""
