"""A whole batch: order, folder, settings, audit log, on this machine or a cluster."""
