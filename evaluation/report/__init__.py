"""Reports: html pages, the model card, the CLAIM checklist, machine-readable tables."""
