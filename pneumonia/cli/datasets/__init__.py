"""Verbs that make datasets: data, its reports, annotate."""
