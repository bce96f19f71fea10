"""Checks of a configuration against this machine: folders, token, TLS files, bundle.

`check_folders` runs whenever a configuration is read, `check_secrets` at every start, and
`check_everything` for `--check`.
"""

import io
import os
from typing import Iterator, Tuple

from deploy_jetson.device.daemon.settings import DaemonSettings
from deploy_jetson.device.daemon.store.spool import FOLDERS
from pneumonia.runtime.connections import (
    check_private,
    client_context,
    server_context,
)
from pneumonia.runtime.errors import ConfigError, DeviceError, os_errors_as

TOKEN_BYTES = 16  # the shortest token
MAX_TOKEN_BYTES = 4096
PROGRAM = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TLS_KEYS = ("tls_cert", "tls_key", "tls_ca")


def lies_inside(inner: str, outer: str) -> bool:
    """Whether a path is `outer` or lies below it; links are resolved, bind mounts recognised.

    Neither path has to exist.
    """
    inner, outer = os.path.realpath(inner), os.path.realpath(outer)
    if (inner + os.sep).startswith(outer.rstrip(os.sep) + os.sep):
        return True
    try:
        wanted = os.stat(outer)
    except OSError:
        return False
    while True:
        try:
            if os.path.samestat(os.stat(inner), wanted):
                return True
        except OSError:
            pass
        if os.path.dirname(inner) == inner:
            return False
        inner = os.path.dirname(inner)


def _needed_paths(config: DaemonSettings, config_path: str) -> Iterator[Tuple[str, str]]:
    """Paths the daemon needs besides its state and bundle: (path, name for messages)."""
    yield os.path.abspath(config_path), "the configuration file"
    yield PROGRAM, "the program"
    sections = [("rest", config.rest), ("dicom", config.dicom)]
    sections += [("destination " + name, peer) for name, peer in config.destinations.items()]
    for section, part in sections:
        for key in ("token_file",) + TLS_KEYS:
            path = getattr(part, key, "")
            if path:
                yield path, "[{}] {}".format(section, key)


def check_folders(config: DaemonSettings, config_path: str) -> Tuple[str, str, str]:
    """Find folders of the configuration that lie inside one another.

    The daemon removes what it takes from the watch folder: nothing that it needs may lie there, and
    nothing that it or the bundle holds may be taken for an image.

    Returns:
        Section, key and message of the first fault; empty strings when there is none.
    """
    state, bundle, watch = config.daemon.state, config.daemon.bundle, config.watch.folder
    for inner, outer, key in ((state, bundle, "state"), (bundle, state, "bundle")):
        if lies_inside(inner, outer):
            places = ("State folder", "bundle") if key == "state" else ("Bundle", "state folder")
            return "daemon", key, "{} lies inside the {}".format(*places)
    if not watch:
        return "", "", ""
    folders = [(state, "state folder"), (bundle, "bundle"), (PROGRAM, "program")]
    folders += [(os.path.join(state, name), "state folder") for name in FOLDERS]
    for folder, name in folders:
        if lies_inside(watch, folder):
            return "watch", "folder", "Watch folder lies inside the {}".format(name)
        if lies_inside(folder, watch):
            return "watch", "folder", "Watch folder holds the {}".format(name)
    for path, name in _needed_paths(config, config_path):
        if lies_inside(path, watch):
            return "watch", "folder", "Watch folder holds {}".format(name)
    return "", "", ""


def read_token(path: str) -> bytes:
    """The bearer token of a file; empty without a file.

    Raises:
        ConfigError: It cannot be read, is open to other users, too short or not one line of ASCII.
    """
    if not path:
        return b""
    with os_errors_as(ConfigError, "Token cannot be read", path):
        with io.open(path, "rb") as stream:
            check_private(path, os.fstat(stream.fileno()))
            token = stream.read(MAX_TOKEN_BYTES).strip()
    if len(token) < TOKEN_BYTES:
        raise ConfigError("Token is too short", "{} bytes or more".format(TOKEN_BYTES), where=path)
    if not all(0x21 <= byte <= 0x7E for byte in bytearray(token)):
        raise ConfigError(
            "Token cannot be sent in a header", "one line of letters, digits and signs", where=path
        )
    return token


def check_secrets(config: DaemonSettings) -> None:
    """Open the token and the TLS files of everything that is switched on.

    Raises:
        ConfigError: One is missing, open to other users, encrypted or does not fit the others.
    """
    if config.rest.port >= 0:
        read_token(config.rest.token_file)
    for part in (config.rest, config.dicom):
        if part.port >= 0 and part.tls_cert:
            server_context(part.tls_cert, part.tls_key, part.tls_ca)
    for peer in config.destinations.values():
        if peer.tls_ca:
            client_context(peer.tls_cert, peer.tls_key, peer.tls_ca)


def check_dicom_networking() -> None:
    """Raise DeviceError where pynetdicom is not installed."""
    try:
        import pynetdicom  # noqa: F401
    except ImportError:
        raise DeviceError(
            "DICOM networking is not installed", fix="pip install 'pneumonia[pacs]'"
        ) from None


def check_everything(config: DaemonSettings) -> None:
    """All checks that need no port, no state folder and no engine: what `--check` runs.

    Raises:
        PneumoniaError: With the exit code that a start would end with.
    """
    from pneumonia.runtime.results import ResultFacts
    from pneumonia.runtime.storage.bundle import load_bundle

    check_secrets(config)
    bundle = load_bundle(config.daemon.bundle)
    name = config.daemon.threshold or next(iter(bundle.operating_points), "")
    ResultFacts.from_bundle(bundle, name)
    if os.path.exists(config.daemon.state) and not os.path.isdir(config.daemon.state):
        raise ConfigError("State is not a folder", where=config.daemon.state)
    if config.dicom.port >= 0 or config.destinations:
        check_dicom_networking()
