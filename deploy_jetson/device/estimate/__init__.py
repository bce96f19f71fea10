"""Predicts latency and energy on a Jetson TX2 without one. Everything is `estimated`."""
