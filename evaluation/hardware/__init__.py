"""What a compressed network costs: storage bits, crossbars, in-memory computing, a device model."""
