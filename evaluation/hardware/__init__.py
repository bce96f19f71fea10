"""Hardware cost of compressed networks: parameters, storage, crossbars, in-memory computing."""
