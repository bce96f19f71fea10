"""From a network description to steps, buffers and their records."""
