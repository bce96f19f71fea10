"""A child process that opens foreign files: it may crash, hang or run out of memory without harm.

`DecodingChild` is the caller's side, for the batch and the daemon; `python -m
pneumonia.runtime.child` is the child. Nothing is pickled, and each file is opened once.
"""

from pneumonia.runtime.child.client import ChildLimits, DecodedFile, DecodingChild, FileRequest
from pneumonia.runtime.child.messages import Wanted

__all__ = ["ChildLimits", "DecodedFile", "DecodingChild", "FileRequest", "Wanted"]
