"""Run folders: what `train`, `prune` and `quantize` write and later verbs read."""
