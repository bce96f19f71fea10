"""Removal of pruned channels from a network, and the storage of what is left."""
