"""The clinician's batch: find studies, score them, write worklist and overlays."""
