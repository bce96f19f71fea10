"""The ADMM engine, its hook into the training loop, and its use on any torch module."""
