"""Predicts latency and energy on a Jetson TX2 before one is at hand. Everything is `estimated`."""
