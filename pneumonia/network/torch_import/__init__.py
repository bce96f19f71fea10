"""A torch module as a network description: trace, translate op by op, fuse, verify."""
