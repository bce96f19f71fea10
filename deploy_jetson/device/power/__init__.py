"""Power sensors behind one protocol, their sampling, and energy from samples."""
