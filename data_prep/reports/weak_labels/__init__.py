"""Image-level labels from reports, and datasets that carry them."""
