"""A model bundle as generated C: one shared library per target that runs the whole network."""
