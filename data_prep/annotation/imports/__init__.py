"""Files of other tools as readings: RSNA csv, COCO, DICOM SR, KCAT."""
