"""Every compression method is a Euclidean projection, driven by one ADMM engine."""
