"""The steps of one image, and the record of the result."""
