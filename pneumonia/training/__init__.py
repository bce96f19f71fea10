"""A plain training loop that resumes exactly."""
