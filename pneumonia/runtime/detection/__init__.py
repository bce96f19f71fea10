"""Images to boxes: an engine with the preprocessing before it and the decoding after it."""
