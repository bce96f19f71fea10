"""The demo: every verb on phantoms, its progress and its page."""
