"""The decoding child with decoders that crash, hang, eat memory or print, by the file's name."""

import os
import time

from pneumonia.runtime.child import __main__ as child
from pneumonia.runtime.child import tasks

check_file = tasks.check_file


def odd_check(path, limits):
    name = os.path.basename(path)
    if "abort" in name:
        os.abort()
    if "hang" in name:
        time.sleep(120)
    if "greedy" in name:
        bytearray(8 << 30)
    if "noisy" in name:
        os.write(1, b"decoder says: odd marker\n" * 1000)
        os.write(2, b"decoder says: odd marker\n" * 1000)
    check_file(path, limits)


tasks.check_file = odd_check

if __name__ == "__main__":
    child.main()
