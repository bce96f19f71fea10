"""A trained entity linker (DCA) that chooses among the concepts of a mention."""
