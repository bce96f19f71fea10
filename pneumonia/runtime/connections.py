"""Connections to other programs: HOST:PORT as text, TLS contexts, secrets that are private."""

import os
import re
import ssl
import stat
from typing import Optional, Tuple

from pneumonia.runtime.errors import ConfigError

# without brackets the last group of an IPv6 address would be taken for the port
_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[^\[\]]*:[^\[\]]*)\]|(?P<name>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})"
)


def address_text(host: str, port: int) -> str:
    """HOST:PORT, or [HOST]:PORT of an IPv6 address."""
    return "{}:{}".format("[{}]".format(host) if ":" in host else host, port)


def split_address(text: str) -> Optional[Tuple[str, int]]:
    """Host without brackets and port of an address; None where it does not name both."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found.group("port")) < 65536:
        return None
    return found.group("ipv6") or found.group("name"), int(found.group("port"))


def check_private(path: str, status: os.stat_result) -> None:
    """Refuse a secret that other users can read, or that the group can change.

    Raises:
        ConfigError: The mode of the file is too open.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(
            "Secret file is open to other users", "mode 0600, or 0640 for a group",
            "mode {:04o}".format(mode), path, "chmod 600 FILE, owned by the user who runs this",
        )  # fmt: skip


class _KeyEncryptedError(Exception):
    """OpenSSL asks for the passphrase of a key."""


def _no_passphrase() -> str:
    raise _KeyEncryptedError


def _load(context: ssl.SSLContext, cert: str, key: str, ca: str) -> ssl.SSLContext:
    try:
        if cert:
            # without the function OpenSSL would ask the terminal for a passphrase, and wait
            context.load_cert_chain(cert, key or None, _no_passphrase)
            check_private(key or cert, os.stat(key or cert))
        if ca:
            context.load_verify_locations(ca)
    except _KeyEncryptedError:
        raise ConfigError(
            "TLS key is encrypted", "a key without a passphrase", where=key or cert,
            fix="Remove the passphrase: openssl pkey -in KEY -out NEW_KEY, and chmod 600",
        ) from None  # fmt: skip
    except (OSError, ValueError) as error:
        is_other = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
        raise ConfigError(
            "TLS key belongs to another certificate" if is_other else "TLS files cannot be used",
            found=getattr(error, "reason", None) or error.__class__.__name__,
            where=", ".join(name for name in (cert, key, ca) if name),
            fix="Certificate, key and authorities are PEM files that this user can read",
        ) from None
    versions = getattr(ssl, "TLSVersion", None)
    if versions is not None:
        context.minimum_version = versions.TLSv1_2
    else:  # before Python 3.7
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    return context


def server_context(cert: str, key: str, ca: str) -> ssl.SSLContext:
    """Context of a server; with `ca`, clients need a certificate signed by it.

    Raises:
        ConfigError: A file cannot be read or is not PEM.
    """
    context = _load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), cert, key, ca)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(cert: str, key: str, ca: str) -> ssl.SSLContext:
    """Context of a client that verifies its peer's certificate and name against `ca`.

    Raises:
        ConfigError: A file cannot be read or is not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _load(context, cert, key, ca)
