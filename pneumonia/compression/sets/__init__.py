"""Sets beyond filters, channels and columns; each module is one published family of methods."""
