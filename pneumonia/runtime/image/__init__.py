"""A radiograph file to a grey image and a network input; which images the model may judge."""
