"""What is generated for, and runs on, the Jetson TX2."""
