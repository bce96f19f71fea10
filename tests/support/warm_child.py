"""Decoding children that are forked from a warm process: 0.03 s of processor each, not 0.35 s.

For tests of what is made of the images. The real start is tested in tests/runtime/child, and by
every test that runs a command or the daemon as a process of its own.

`python -m tests.support.warm_child SOCKET` serves until its standard input ends. Each
connection brings a child's standard input and output and its memory files; when the connection
ends, so does the child.
"""

import contextlib
import fcntl
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import types

from pneumonia.runtime.child import client
from tests.contracts.tree import ROOT

ODD = (sys.executable, str(ROOT / "tests" / "runtime" / "child" / "odd_child.py"))
ABOVE = 512  # the caller's files have smaller numbers
# Command line of a child without its memory limit -> module that is imported in its place.
CHILDREN = {
    client.COMMAND: "pneumonia.runtime.child.__main__",
    ODD: "tests.runtime.child.odd_child",
}

# Started by the caller in place of the child: it passes its files to the warm process and ends
# with the child. Its arguments: the socket, the module, the numbers of the files, and the child's
# own command line.
PASS_FILES = """
import _socket, os, sys
link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
link.connect(sys.argv[1])
numbers = [int(number) for number in sys.argv[3].split(",")]
files = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
child = " ".join([*sys.argv[2:4], sys.argv[-1]]).encode()
link.sendmsg([child], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
os.close(0), os.close(1)
link.recv(1)
"""


@contextlib.contextmanager
def warm_process(folder):
    """Start the process that is forked; gives the address of its socket, which lies in `folder`."""
    address = str(folder / "warm")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm_child", address], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **client.ENVIRONMENT},
    )  # fmt: skip
    try:
        assert server.stdout.readline() == b"ready\n"
        yield address
    finally:
        server.stdin.close()
        server.wait(60)
        server.stdout.close()


@contextlib.contextmanager
def forked_children(address):
    """Fork the decoding children of this process from that one."""

    def start(command, **options):
        module = CHILDREN.get(tuple(command[:-1]))
        if module:
            numbers = ",".join(map(str, (0, 1, *options.get("pass_fds", ()))))
            command = [sys.executable, "-ISc", PASS_FILES, address, module, numbers, *command]
        return subprocess.Popen(command, **options)

    original = client.subprocess
    client.subprocess = types.SimpleNamespace(
        Popen=start, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        client.subprocess = original


def _become_child(link, files, module, numbers, memory_mb):
    """In a forked process: what the started one does."""
    from pneumonia.runtime.child.__main__ import main

    importlib.import_module(module)  # the module of the odd child changes the decoder

    for file, number in zip(files, map(int, numbers.split(",")), strict=True):
        os.dup2(file, number)
        os.close(file)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def end_with_the_caller():
        link.recv(1)
        os._exit(1)

    threading.Thread(target=end_with_the_caller, daemon=True).start()
    sys.stdin, sys.argv = os.fdopen(0, closefd=False), ["child", memory_mb]
    main()


def _moved(file):
    """The file under a number that no caller's file has."""
    moved = fcntl.fcntl(file, fcntl.F_DUPFD, ABOVE)
    os.close(file)
    return moved


def _serve(address):
    sys.modules["requests"] = None  # as the child itself does
    from PIL import Image

    import pneumonia.runtime.child.tasks
    import pneumonia.runtime.results  # noqa: F401

    Image.preinit()  # loads the usual formats, which a child does with its first file

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
                return
            link, _ = listener.accept()
            arguments, received, _, _ = socket.recv_fds(link, 200, 2 + client.AHEAD)
            files = [_moved(file) for file in received]
            if os.fork() == 0:
                listener.close()
                try:
                    _become_child(socket.socket(fileno=_moved(link.detach())), files,
                                  *arguments.decode().split())  # fmt: skip
                finally:
                    os._exit(0)
            link.close()
            for file in files:
                os.close(file)


if __name__ == "__main__":
    _serve(sys.argv[1])
