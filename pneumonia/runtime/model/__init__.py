"""A network's description, its bundle, and boxes from its output."""
