"""Report files as text: csv, text files, OpenI's XML, and the fixed split."""
