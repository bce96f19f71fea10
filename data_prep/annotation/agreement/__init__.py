"""Agreement between readers, and the consensus of their readings."""
