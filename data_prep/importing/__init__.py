"""Import of radiographs and labels: download, source folders, label tables, decoding."""
