"""How images come in and results go out: DICOM, HTTP, watch folder."""
