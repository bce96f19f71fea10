"""Free-text radiology reports to coded findings and image-level weak labels."""
