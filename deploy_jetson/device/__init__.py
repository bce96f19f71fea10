"""What runs on the Jetson itself: Python 3.6, the standard library and NumPy."""
