"""The world to training data: labels, patient-level splits, cache, augmentation, phantoms."""
