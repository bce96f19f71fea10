"""From source files to training data: labels, patient splits, cache, augmentation, phantoms."""
