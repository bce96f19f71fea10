"""A certificate that is its own authority, made by openssl."""

import shutil
import subprocess

import pytest

HERE = "DNS:localhost,IP:127.0.0.1"
AUTHORITY = """
[ca]
default_ca = one
[one]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = {names}
basicConstraints = critical,CA:true
"""


def _openssl(*arguments):
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def make_certificates(folder, names=HERE):
    """Paths of `cert` and `key`, valid for two days, for localhost and 127.0.0.1 or other names."""
    folder.mkdir(exist_ok=True)
    files = {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", f"subjectAltName={names}",
        "-keyout", files["key"], "-out", files["cert"],
    )  # fmt: skip
    return files


def make_signed_certificates(folder, authority, names=HERE):
    """Paths of `cert`, `key` and `pem` (both in one file), signed by another certificate."""
    folder.mkdir(exist_ok=True)
    files = {name: str(folder / f"{name}.pem") for name in ("cert", "key", "pem")}
    request, extensions = str(folder / "request.pem"), folder / "extensions"
    extensions.write_text(f"subjectAltName={names}\n")
    _openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-subj", "/CN=client", "-keyout", files["key"], "-out", request,
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", request, "-CA", authority["cert"], "-CAkey", authority["key"],
        "-set_serial", "7", "-days", "2", "-extfile", str(extensions), "-out", files["cert"],
    )  # fmt: skip
    pair = [(folder / f"{name}.pem").read_text() for name in ("cert", "key")]
    (folder / "pem.pem").write_text("".join(pair))
    (folder / "pem.pem").chmod(0o600)
    return files


def make_expired_certificates(folder):
    """The same, valid on one day in 2020."""
    folder.mkdir(exist_ok=True)
    files = {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    request, config = str(folder / "request.pem"), folder / "ca.cnf"
    config.write_text(AUTHORITY.format(folder=folder, names=HERE))
    (folder / "index.txt").write_text("")
    _openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-subj", "/CN=localhost", "-keyout", files["key"], "-out", request,
    )  # fmt: skip
    _openssl(
        "ca", "-batch", "-notext", "-config", str(config), "-selfsign", "-keyfile", files["key"],
        "-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-in", request,
        "-out", files["cert"],
    )  # fmt: skip
    return files
