"""The daemon: radiographs come in by DICOM, folder or HTTP; nothing acknowledged is lost.

Research use only. Not a medical device.
"""
