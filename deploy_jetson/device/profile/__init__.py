"""Energy per image: the measuring protocol, its recordings, figures, page and verification."""
