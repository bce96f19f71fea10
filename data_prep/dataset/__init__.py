"""Dataset folders: read, write, split by patient, audit."""
