"""Consensus and readings as files: csv, COCO, DICOM SR, KCAT, dataset folder."""
