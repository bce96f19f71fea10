"""Code for host and device alike; needs only Python 3.6, NumPy, Pillow and pydicom >= 2.3.

The folder is copied to the device as it is. The host uses the same reading, preprocessing,
decoding and bundle code, so that the two cannot drift apart.
"""
