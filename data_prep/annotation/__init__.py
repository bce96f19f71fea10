"""Ground truth from several readers: annotations, agreement, consensus, export for training."""
