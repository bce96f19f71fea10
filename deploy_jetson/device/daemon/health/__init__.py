"""Metrics, systemd notifications, power rails and the thermal governor."""
