"""DICOM associations and C-STORE requests made by hand, to send what no library would."""

import contextlib
import socket
import struct

import numpy as np

from tests.runtime.dicoms import DX, LITTLE, chest_dataset, save

UID = "1.2.826.0.1.3680043.10.999.1.1.1"


def item(kind, body):
    return bytes([kind, 0]) + struct.pack(">H", len(body)) + body


def unit(kind, body):
    return bytes([kind, 0]) + struct.pack(">I", len(body)) + body


def context(number, syntaxes, abstract=DX):
    names = item(0x30, abstract.encode()) + b"".join(item(0x40, one.encode()) for one in syntaxes)
    return item(0x20, bytes([number, 0, 0, 0]) + names)


def association(items, user=b"", called="PNEUMO"):
    head = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + b"PEER".ljust(16) + bytes(32)
    head += item(0x10, b"1.2.840.10008.3.1.1.1") + items
    user = item(0x51, struct.pack(">I", 65536)) + item(0x52, b"1.2.3") + user
    return unit(0x01, head + item(0x50, user))


def exactly(link, size):
    data = b""
    while len(data) < size:
        block = link.recv(size - len(data))
        if not block:
            raise ConnectionError
        data += block
    return data


def receive(link):
    """Type and contents of a unit."""
    kind, _, size = struct.unpack(">BBI", exactly(link, 6))
    return kind, exactly(link, size)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


@contextlib.contextmanager
def associated(port, syntax=LITTLE, abstract=DX):
    with connect(port) as link:
        link.sendall(association(context(1, [syntax], abstract)))
        assert receive(link)[0] == 0x02
        yield link
        link.sendall(unit(0x05, bytes(4)))  # release
        assert receive(link)[0] == 0x06


def element(tag, value):
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def even(text):
    return text.encode() + b"\0" * (len(text) % 2)


def command(sop_class, instance, has_data=True):
    elements = element(0x00000002, even(sop_class)) + element(0x00000100, b"\1\0")
    elements += element(0x00000110, b"\1\0") + element(0x00000700, b"\0\0")
    elements += element(0x00000800, b"\0\0" if has_data else b"\1\1")
    elements += element(0x00001000, even(instance))
    return element(0x00000000, struct.pack("<I", len(elements))) + elements


def data_unit(flags, part):
    """A P-DATA-TF with one fragment; flags: 1 of a command, 2 the last one."""
    return unit(0x04, struct.pack(">IBB", len(part) + 2, 1, flags) + part)


def store(link, sop_class, instance, data):
    """The status of a C-STORE; `data` None: the command says that there is no data set."""
    parts = [(3, command(sop_class, instance, data is not None))]
    if data is not None:
        parts += [(2, data)]
    for flags, part in parts:
        link.sendall(data_unit(flags, part))
    kind, answer = receive(link)
    assert kind == 0x04
    status = answer.index(element(0x00000900, b"")[:4])
    return struct.unpack("<H", answer[status + 8 : status + 10])[0]


def data_set(tmp_path, syntax=LITTLE, **tags):
    path = save(tmp_path / "x.dcm", chest_dataset(np.zeros((8, 8), np.uint16), **tags), syntax)
    data = path.read_bytes()
    return data[144 + struct.unpack("<I", data[140:144])[0] :]
