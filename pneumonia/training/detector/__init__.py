"""The detection task: order of images, targets, loss, validation."""
