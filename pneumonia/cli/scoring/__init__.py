"""The verb `score`: command, options, servers, and what it shows."""
