"""Architecture as data: the zoo, the torch module built from a spec, and its weights."""
