"""Starts daemons that kill themselves at a given step; the imports are paid once.

`python -m tests.deploy_jetson.device.daemon.nursery STATE`; each line of stdin is a step number
(0: none). Answers `ready PORT` and `dead`, or `dead` alone.
"""

import ctypes
import os
import signal
import sqlite3
import sys
import threading

from deploy_jetson.device.daemon.service import DaemonService
from deploy_jetson.device.daemon.settings import QueueSettings
from tests.deploy_jetson.device.daemon.rig import InProcess, load_fake, settings

LIFE_S = 600
PR_SET_PDEATHSIG = 1


class Steps:
    """Counts steps that leave a trace on the disk, and kills the process in the middle of one."""

    def __init__(self, last):
        self._left = last
        self._lock = threading.Lock()

    def step(self):
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()

    def around(self, function):
        def counted(*arguments, **more):
            self.step()
            result = function(*arguments, **more)
            self.step()
            return result

        return counted


class Counted:
    """A database whose statements are steps, once `steps` is set."""

    def __init__(self, database):
        self._database = database
        self.steps = None

    def _call(self, function, *arguments):
        return (self.steps.around(function) if self.steps else function)(*arguments)

    def execute(self, *arguments):
        return self._call(self._database.execute, *arguments)

    def executemany(self, *arguments):
        return self._call(self._database.executemany, *arguments)

    def __getattr__(self, name):
        return getattr(self._database, name)


def live(state, last):
    """One daemon's life."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no child outlives the nursery
    signal.alarm(LIFE_S)
    steps = Steps(last)
    for name in ("fsync", "replace", "unlink", "chmod"):
        setattr(os, name, steps.around(getattr(os, name)))
    config = settings(state, queue=QueueSettings(max_attempts=1000))
    connect, opened = sqlite3.connect, []

    def counted(*names, **more):
        opened.append(Counted(connect(*names, **more)))
        return opened[-1]

    sqlite3.connect = counted
    service = DaemonService(config, load_model=load_fake, make_decoder=lambda *unused: InProcess())
    for database in opened:
        database.steps = steps
    service.start()
    sys.stdout.write(f"ready {service.ports['rest']}\n")
    sys.stdout.flush()
    service.run()


def main():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                live(sys.argv[1], int(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(1)
        os.waitpid(child, 0)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
