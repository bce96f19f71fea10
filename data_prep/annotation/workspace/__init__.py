"""The workspace on disk: studies, people, readings and their revisions."""
