"""systemd's notification protocol (sd_notify(3)), without its library."""

import os
import socket
import time
from typing import Optional


class SystemdNotifier:
    """Notifies systemd that the daemon is ready and alive; does nothing outside systemd.

    Args:
        address: NOTIFY_SOCKET; None or empty for none.
        watchdog_usec: WATCHDOG_USEC; None or empty for none.
    """

    def __init__(self, address: Optional[str], watchdog_usec: Optional[str]) -> None:
        self._address = address or ""
        usec = int(watchdog_usec) if watchdog_usec and watchdog_usec.isdigit() else 0
        self._every_s = usec / 1e6 / 4
        self._last = -1e9
        self._is_ready = False

    @classmethod
    def from_environment(cls) -> "SystemdNotifier":
        """A notifier of systemd's variables, which are removed: child processes must not notify."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None), os.environ.pop("WATCHDOG_USEC", None))

    def send(self, text: str) -> None:
        """Send a message; errors are ignored."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(1.0)
                channel.sendto(text.encode("utf-8", "backslashreplace"), address)
        except OSError:
            pass

    def ready(self, status: str) -> None:
        """Send READY=1."""
        self._is_ready = True
        self.send("READY=1\nSTATUS={}".format(status))

    def stopping(self) -> None:
        """Send STOPPING=1."""
        self.send("STOPPING=1")

    def send_watchdog(self) -> None:
        """Send WATCHDOG=1; called by the worker's loop, so that a hanging loop is noticed."""
        now = time.monotonic()
        if self._is_ready and self._every_s and now - self._last >= self._every_s:
            self._last = now
            self.send("WATCHDOG=1")
