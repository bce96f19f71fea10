"""What is computed from a study: all metrics, subgroups, paired comparisons, error types."""
