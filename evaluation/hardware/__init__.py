"""What a compressed network costs: parameters, storage bits, crossbars, in-memory computing."""
