"""What must survive a power cut: the files of the spool and the journal of jobs."""
