"""Synthetic chest radiographs with ground-truth boxes: anatomy, findings, acquisition, DICOM."""
