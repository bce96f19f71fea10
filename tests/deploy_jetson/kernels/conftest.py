"""The C files that all generated libraries share are compiled once a session."""

from tests.deploy_jetson.kernels.shared_objects import objects_compiled_once

__all__ = ["objects_compiled_once"]
