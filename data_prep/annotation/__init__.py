"""Ground truth by several readers: who drew what, how far they agree, what goes to training."""
