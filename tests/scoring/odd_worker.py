"""The decode worker with decoders that crash, hang, eat memory or talk, by the file's name."""

import os
import time

from pneumonia.scoring import decode_worker

read = decode_worker.read_radiograph


def odd_read(path, *more):
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
    return read(path, *more)


decode_worker.read_radiograph = odd_read

if __name__ == "__main__":
    decode_worker.main()
