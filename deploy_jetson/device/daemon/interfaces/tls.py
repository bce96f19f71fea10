"""TLS contexts for both sides of an interface."""

import ssl

from pneumonia.runtime.errors import ConfigError


def _load(context: ssl.SSLContext, cert: str, key: str, ca: str) -> ssl.SSLContext:
    try:
        if cert:
            context.load_cert_chain(cert, key or None)
        if ca:
            context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "TLS files cannot be used", found=type(error).__name__, where=cert or ca,
            fix="tls_cert, tls_key and tls_ca are PEM files the daemon's user can read",
        ) from None  # fmt: skip
    versions = getattr(ssl, "TLSVersion", None)
    if versions is not None:
        context.minimum_version = versions.TLSv1_2
    else:  # before Python 3.7
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    return context


def for_pynetdicom(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """A client's context that the installed pynetdicom can use.

    Version 1.5, the last for Python 3.6, blocks on the session tickets of TLS 1.3: it gets TLS 1.2.
    """
    if version.startswith("1."):
        context.options |= getattr(ssl, "OP_NO_TLSv1_3", 0)
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
    return _load(ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca), cert, key, "")
