"""Servers of a hospital: PACS and DICOMweb services, and sending results to them."""
