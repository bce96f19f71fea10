"""What a compression leaves to read."""
