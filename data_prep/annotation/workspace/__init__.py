"""What readers said, kept on disk: records, studies, people, revisions."""
