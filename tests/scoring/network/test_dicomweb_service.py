"""A DICOMweb service: which certificates, credentials and proxies count, and how long it waits."""

import dataclasses
import gzip
import json
import select
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pneumonia.cli.scoring.remote import RemoteOptions, destination
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.inputs.dicomweb import DicomwebInput
from pneumonia.scoring.inputs.query import STUDY_ANSWER, Query
from pneumonia.scoring.network import dicomweb_service
from pneumonia.scoring.network.dicomweb_service import DicomwebService
from tests.deploy_jetson.device.daemon.certificates import (
    make_certificates,
    make_expired_certificates,
    make_signed_certificates,
)
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.patients import patient

ENVIRONMENT = (
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY",
    "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "PNEUMONIA_DICOMWEB_TOKEN",
    "PNEUMONIA_DICOMWEB_USER", "PNEUMONIA_DICOMWEB_PASSWORD",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited because a server asked for it; nothing waits."""
    found = []
    monkeypatch.setattr(dicomweb_service, "sleep", found.append)
    monkeypatch.setattr(
        dicomweb_service, "RETRIES", dicomweb_service.RETRIES.new(backoff_factor=0.0)
    )
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, headers, body = self.server.answer(self)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(answer, tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answer = [], answer
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        scheme = "http" if tls is None else "https"
        server.url = f"{scheme}://127.0.0.1:{server.server_port}/dicom-web"
        yield server
    finally:
        server.shutdown()
        server.server_close()


def nothing(handler):
    return 204, {}, b""


def asked(url, **options):
    return DicomwebInput(url, Query(studies=("1.2",)), **options).query(ScoreSettings())


# --- certificates ---


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """Two certificates that are their own authorities."""
    return [make_certificates(tmp_path_factory.mktemp(name)) for name in ("one", "two")]


@pytest.fixture
def secure(authorities):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authorities[0]["cert"], authorities[0]["key"])
    with serving(nothing, context) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_given_certificates_win_over_the_environment(
    secure, authorities, variable, monkeypatch
):
    trusted, other = (Path(files["cert"]) for files in authorities)
    monkeypatch.setenv(variable, str(other))
    assert asked(secure.url, ca_file=trusted) == []
    with pytest.raises(DataError, match="does not answer"):
        asked(secure.url)
    monkeypatch.setenv(variable, str(trusted))
    assert asked(secure.url) == []
    with pytest.raises(DataError, match="certificate is not trusted"):
        asked(secure.url, ca_file=other)


def test_a_server_that_nothing_trusts_is_refused(secure):
    with pytest.raises(DataError, match="certificate is not trusted"):
        asked(secure.url)


@pytest.mark.slow
def test_a_file_without_certificates(secure, tmp_path):
    (tmp_path / "empty.pem").write_text("none here\n")
    with pytest.raises(ConfigError, match="TLS files cannot be used"):
        asked(secure.url, ca_file=tmp_path / "empty.pem")
    with pytest.raises(ConfigError, match="File of certificates"):
        DicomwebService(secure.url, tmp_path / "missing.pem")


@contextmanager
def serving_tls(files, client_ca=None, oldest=None, newest=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    if newest:
        context.minimum_version, context.maximum_version = oldest, newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    with serving(nothing, context) as server:
        yield server


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "certificate has expired"),
        ("elsewhere", "not valid for '127.0.0.1'"),
        ("foreign", "not trusted: (self.signed certificate|unable to get local issuer)"),
        ("old", r"no TLS 1\.2 or 1\.3|TLS: UNSUPPORTED_PROTOCOL"),
        ("plain", "does not speak TLS"),
    ],
)
def test_why_a_server_is_not_trusted(kind, reason, authorities, tmp_path, monkeypatch):
    monkeypatch.setattr(
        dicomweb_service, "RETRIES", dicomweb_service.RETRIES.new(backoff_factor=0.0)
    )
    files = {
        "expired": lambda: make_expired_certificates(tmp_path / "c"),
        "elsewhere": lambda: make_certificates(tmp_path / "c", "DNS:pacs.example"),
    }.get(kind, lambda: authorities[0])()
    trusted = authorities[1]["cert"] if kind == "foreign" else files["cert"]
    versions = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1) if kind == "old" else ()
    with serving(nothing) if kind == "plain" else serving_tls(files, None, *versions) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(DataError, match=reason) as caught:
            asked(url, ca_file=Path(trusted))
        assert server.asked == []
    assert "--client-cert" not in str(caught.value)


# --- client certificates ---


@pytest.fixture(scope="module")
def client(authorities, tmp_path_factory):
    """A certificate that the first authority has signed."""
    return make_signed_certificates(tmp_path_factory.mktemp("client"), authorities[0])


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_client_certificate(newest, client, authorities, monkeypatch):
    monkeypatch.setattr(
        dicomweb_service, "RETRIES", dicomweb_service.RETRIES.new(backoff_factor=0.0)
    )
    trusted = Path(authorities[0]["cert"])
    with serving_tls(authorities[0], trusted, ssl.TLSVersion.TLSv1_2, newest) as server:
        pair = {"client_cert": Path(client["cert"]), "client_key": Path(client["key"])}
        assert asked(server.url, ca_file=trusted, **pair) == []
        assert asked(server.url, ca_file=trusted, client_cert=Path(client["pem"])) == []
        server.asked.clear()
        with pytest.raises(DataError, match="--client-cert"):
            asked(server.url, ca_file=trusted)
        foreign = {"client_cert": authorities[1]["cert"], "client_key": authorities[1]["key"]}
        foreign = {name: Path(path) for name, path in foreign.items()}
        with pytest.raises(DataError, match=r"does not (trust|accept) the client certificate"):
            asked(server.url, ca_file=trusted, **foreign)
        assert server.asked == []


class _Ends(socketserver.BaseRequestHandler):
    """Ends every connection after its first bytes, with or without a reset."""

    def handle(self):
        self.request.recv(1 if self.server.resets else 65536)
        if self.server.resets:  # what is left unread makes the kernel reset the connection
            linger = struct.pack("ii", 1, 0)
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.request.close()


@pytest.mark.parametrize(
    ("scheme", "resets", "reason"),
    [
        ("https", False, "does not accept the client certificate"),
        ("https", True, "does not accept the client certificate"),
        ("http", True, "the connection failed"),
    ],
)
def test_a_server_may_end_the_connection_without_a_reason(scheme, resets, reason, monkeypatch):
    """Under TLS 1.3 a client that writes at once may not see the alert about its certificate."""
    monkeypatch.setattr(
        dicomweb_service, "RETRIES", dicomweb_service.RETRIES.new(backoff_factor=0.0)
    )
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Ends) as server:
        server.resets = resets
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match=reason):
            asked(f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web")
        server.shutdown()


def test_results_are_sent_with_the_client_certificate(client, authorities, tunnel):
    """Through the tunnel of a proxy, which sees neither the certificate nor the results."""
    trusted = Path(authorities[0]["cert"])
    with serving_tls(authorities[0], trusted) as server:
        options = chosen(
            send=server.url, ca_file=trusted,
            client_cert=Path(client["cert"]), client_key=Path(client["key"]),
        )  # fmt: skip
        service = destination(options).server
        assert service.session().get(service.endpoint).status_code == 204
        assert tunnel.asked[0][0][0] == "CONNECT"


def encrypted(client, folder):
    command = ["openssl", "pkey", "-in", client["key"], "-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", folder / "key.pem"], check=True, capture_output=True)
    (folder / "key.pem").chmod(0o600)
    return {"client_cert": Path(client["cert"]), "client_key": folder / "key.pem"}


def open_to_all(client, folder):
    (folder / "pem").write_bytes(Path(client["pem"]).read_bytes())
    (folder / "pem").chmod(0o644)
    return {"client_cert": folder / "pem"}


def swapped(client, folder):
    other = make_certificates(folder / "other")
    return {"client_cert": Path(client["cert"]), "client_key": Path(other["key"])}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (encrypted, "key is encrypted"),
        (open_to_all, "open to other users"),
        (swapped, "belongs to another certificate"),
        (lambda client, folder: {"client_cert": folder / "absent"}, "cannot be used"),
        (lambda client, folder: {"client_cert": Path(client["cert"])}, "cannot be used"),
        (lambda client, folder: {"client_cert": folder}, "cannot be used"),
    ],
)
def test_client_certificates_that_cannot_be_used(made, message, client, tmp_path):
    """Refused before anything is asked; a passphrase is never asked for on the terminal."""
    with pytest.raises(ConfigError, match=message) as caught:
        DicomwebService("https://pacs.example", None, **made(client, tmp_path))
    assert "BEGIN" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["pacs.example", "http://[::1", "http://::1:80/dicom-web", "http://h:x/", "http://h:70000/"],
)
def test_addresses_that_are_none(url):
    with pytest.raises(ConfigError, match="address of a DICOMweb service"):
        DicomwebService(url)


# --- credentials ---


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1\nlogin somebody\npassword else\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


OF_NETRC = "Basic c29tZWJvZHk6ZWxzZQ=="


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"TOKEN": "tok123"}, "Bearer tok123"),
        ({"USER": "me", "PASSWORD": "secret"}, "Basic bWU6c2VjcmV0"),
        ({"TOKEN": "tok123", "USER": "me"}, "Bearer tok123"),
        ({}, OF_NETRC),
    ],
)
def test_given_credentials_win_over_netrc(netrc, given, header, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(f"PNEUMONIA_DICOMWEB_{name}", value)
    with serving(nothing) as server:
        asked(server.url)
        assert {found for _, found in server.asked} == {header}


def test_credentials_of_one_server_are_not_sent_to_another(monkeypatch):
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_TOKEN", "images")
    monkeypatch.setenv("PNEUMONIA_SEND_TOKEN", "results")

    def token(send):
        options = chosen(dicomweb="https://one.example/dw", send=send)
        return destination(options).server.session().headers["Authorization"]

    assert token("https://other.example/dw") == "Bearer results"
    assert token("https://one.example:8443/dw") == "Bearer results"
    assert token("https://one.example/other") == "Bearer images"
    options = chosen(dicomweb=None, send="https://other.example/dw")
    assert destination(options).server.session().headers["Authorization"] == "Bearer images"


def chosen(**given):
    names = {field.name: None for field in dataclasses.fields(RemoteOptions)}
    return RemoteOptions(**{**names, **given})


def test_a_redirect_to_another_host_gets_no_credentials(netrc, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_TOKEN", "tok123")
    with serving(nothing) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost") + "/studies"
        with serving(lambda handler: (307, {"Location": elsewhere}, b"")) as server:
            asked(server.url)
        assert [found for _, found in other.asked] == [None]


def test_proxies_of_the_environment_are_used(monkeypatch):
    with serving(nothing) as proxy, serving(nothing) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        asked(server.url)
        assert proxy.asked[0][0].startswith(server.url)
        assert not server.asked
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        asked(server.url)
        assert server.asked


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that opens a connection for CONNECT, or answers `server.refusal`."""

    def handle(self):
        line = self.rfile.readline().decode("ascii")
        headers = iter(self.rfile.readline, b"\r\n")
        self.server.asked.append((line.split()[:2], b"".join(headers)))
        if self.server.refusal:
            self.wfile.write(b"HTTP/1.1 " + self.server.refusal + b"\r\nContent-Length: 0\r\n\r\n")
            return
        host, port = line.split()[1].rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=60) as far:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {self.connection: far, far: self.connection}
            while True:
                for end in select.select(list(ends), [], [], 60)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)


@pytest.fixture
def tunnel(monkeypatch):
    """A proxy for HTTPS, named in the environment."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.asked, server.refusal, server.daemon_threads = [], b"", True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:word@127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()


def test_https_goes_through_the_tunnel_of_a_proxy(secure, authorities, tunnel, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_TOKEN", "tok123")
    trusted, other = (Path(files["cert"]) for files in authorities)
    assert asked(secure.url, ca_file=trusted) == []
    ((method, address), headers) = tunnel.asked[0]
    assert (method, address) == ("CONNECT", secure.url.split("/")[2])
    assert b"tok123" not in headers  # for the server alone
    assert b"Proxy-Authorization: Basic" in headers
    assert [found for _, found in secure.asked] == ["Bearer tok123"]
    with pytest.raises(DataError, match="certificate is not trusted"):  # the proxy may be anybody
        asked(secure.url, ca_file=other)
    tunnelled = len(tunnel.asked)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert asked(secure.url, ca_file=trusted) == []
    assert len(tunnel.asked) == tunnelled


@pytest.mark.parametrize("refusal", [b"407 Proxy Authentication Required", b"403 Forbidden"])
def test_a_proxy_that_refuses_is_an_error_without_its_password(
    secure, authorities, tunnel, refusal, waits
):
    tunnel.refusal = refusal
    with pytest.raises(DataError, match="does not answer") as caught:
        asked(secure.url, ca_file=Path(authorities[0]["cert"]))
    assert "word" not in str(caught.value)
    assert secure.asked == []


# --- waiting ---


def busy(headers, times):
    left = [times]

    def answer(handler):
        left[0] -= 1
        return (503, headers, b"") if left[0] >= 0 else nothing(handler)

    return answer


def test_a_long_wait_is_reported(waits, caplog):
    with serving(busy({"Retry-After": "30"}, 1)) as server:
        assert asked(server.url) == []
    assert waits == [30.0]
    assert "asks to wait 30 s (HTTP 503)" in caplog.text


def test_a_short_wait_is_not(waits, caplog):
    with serving(busy({"Retry-After": "1"}, 1)) as server:
        asked(server.url)
    assert (waits, caplog.text) == ([1.0], "")


@pytest.mark.parametrize("wait", ["3600", "61", "99999999999", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_wait_that_is_too_long_ends_the_request(waits, wait):
    with serving(busy({"Retry-After": wait}, 9)) as server:
        with pytest.raises(DataError, match="HTTP 503, retry after"):
            asked(server.url)
        assert (len(server.asked), waits) == (1, [])


@pytest.mark.parametrize("wait", ["soon", "-5", ""])
def test_a_malformed_wait_is_ignored(waits, wait):
    with serving(busy({"Retry-After": wait}, 1)) as server:
        assert asked(server.url) == []


# --- answers ---


def film(bright, number, **tags):
    return chest_dataset(bright, **patient(number, **tags))


def value(text):
    return {"vr": "LO", "Value": [text]}


class Archive:
    """QIDO-RS and WADO-RS over data sets.

    Attributes:
        has_series: Whole series are delivered.
        both: All instances of the same UID are delivered.
        by_uid_alone: Instances are found by their own UID, whatever the path says.
        is_deaf: Matching keys are ignored.
        unnamed: Attributes that answers leave out.
        compress: Bodies are compressed.
    """

    def __init__(self, folder, *datasets):
        self.held = [
            (dataset, save(folder / f"{number}.dcm", dataset).read_bytes())
            for number, dataset in enumerate(datasets)
        ]
        self.by_uid_alone = self.is_deaf = self.compress = False
        self.has_series = self.both = False
        self.unnamed = ()

    def answer(self, handler):
        path, _, query = handler.path.partition("?")
        steps = path.strip("/").split("/")[1:]
        names = dict(zip(steps[0::2], steps[1::2], strict=False))
        found = [
            (dataset, data) for dataset, data in self.held
            if (self.by_uid_alone and len(steps) == 6)
            or (names.get("studies", dataset.StudyInstanceUID) == dataset.StudyInstanceUID
                and names.get("series", dataset.SeriesInstanceUID) == dataset.SeriesInstanceUID)
        ]  # fmt: skip
        if len(steps) == 4 and not self.has_series:
            return 406, {}, b""
        if len(steps) in (4, 6):
            found = found[:1] if len(steps) == 6 and not self.both else found
            head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
            body = b"".join(head + data + b"\r\n" for _, data in found) + b"--b--"
            kind = 'multipart/related; type="application/dicom"; boundary=b'
            return self.sent(kind, body)
        keys = dict(pair.split("=") for pair in query.split("&"))
        if int(keys["offset"]):
            return nothing(handler)
        level = len(steps)
        shown = {1: STUDY_ANSWER, 3: ("SeriesInstanceUID",), 5: ("SOPInstanceUID",)}[level]
        documents = []
        for dataset, _ in found:
            fits = all(str(dataset.get(k, v)) == v for k, v in keys.items())
            if level > 1 or self.is_deaf or fits:
                documents.append(
                    {
                        f"{dataset[keyword].tag:08X}": value(str(dataset[keyword].value))
                        for keyword in shown
                        if keyword not in self.unnamed
                    }
                )
        return self.sent("application/dicom+json", json.dumps(documents).encode())

    def sent(self, kind, body):
        headers = {"Content-Type": kind}
        if self.compress:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        return 200, headers, body


def results(summary):
    return {
        record.file.relative.split("/")[0].rsplit(".", 1)[-1]: (record.status, record.reason)
        for record in summary.records
    }


@pytest.mark.parametrize(
    ("by_uid_alone", "has_series", "second"),
    [
        (False, False, ("scored", "")),
        (True, False, ("failed", "wrong_object")),
        (True, True, ("scored", "")),  # by the series, which is the study's own
    ],
)
def test_studies_that_share_an_instance_uid(
    by_uid_alone, has_series, second, bright, dark, detector, tmp_path
):
    shared = {"SOPInstanceUID": f"{SERIES}.5"}
    archive = Archive(tmp_path, film(bright, 1, **shared), film(dark, 2, **shared))
    archive.by_uid_alone, archive.has_series = by_uid_alone, has_series
    wanted = Query(studies=(f"{SERIES}.1", f"{SERIES}.2"))
    with serving(archive.answer) as server:
        summary = score_batch(DicomwebInput(server.url, wanted), tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", ""), "2": second}
    scores = {r.file.relative.split("/")[0]: r.max_score() for r in summary.records}
    assert scores[f"{SERIES}.1"] > 0.9
    assert second[0] == "failed" or scores[f"{SERIES}.2"] < 0.9


@pytest.mark.parametrize(
    "written",
    [
        lambda text: {"vr": "LO", "Value": [text + " "]},
        lambda text: {"vr": "LO", "Value": [text + "\0"]},
        lambda text: {"vr": "LO", "Value": text},
        lambda text: {"Value": [text, None]},
    ],
)
def test_values_that_are_padded_or_in_no_list(written, bright, detector, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "value", written)
    archive = Archive(tmp_path, film(bright, 1), film(bright, 2))
    with serving(archive.answer) as server:
        source = DicomwebInput(server.url, Query(studies=(f"{SERIES}.1",)))
        summary = score_batch(source, tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", "")}


def test_other_pixels_under_the_same_uids(bright, dark, detector, tmp_path):
    first, second = (Archive(tmp_path, film(pixels, 1)) for pixels in (dark, bright))
    with serving(first.answer) as server:
        source = DicomwebInput(server.url, Query(studies=(f"{SERIES}.1",)))
        score_batch(source, tmp_path / "out", detector)
        same = score_batch(source, tmp_path / "out", detector)
        server.answer = second.answer
        other = score_batch(source, tmp_path / "out", detector)
    found = [(s.records[0].reused, s.records[0].max_score() > 0.9) for s in (same, other)]
    assert found == [(True, False), (False, True)]
    assert "image_changed" in other.records[0].warnings


def test_two_patients_under_the_same_three_uids(bright, dark, detector, tmp_path):
    archive = Archive(tmp_path, film(bright, 1), film(dark, 1, PatientID="ANOTHER"))
    with serving(archive.answer) as server:
        source = DicomwebInput(server.url, Query(studies=(f"{SERIES}.1",)))
        archive.both = True
        summary = score_batch(source, tmp_path / "out", detector)
    assert results(summary) == {"1": ("failed", "ambiguous_object")}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("AccessionNumber", Query(accessions=("ACC1",))),
        ("StudyDate", Query(date="20200101-20200131")),
        ("", Query(studies=(f"{SERIES}.1",))),
    ],
)
@pytest.mark.parametrize("is_returned", [True, False])
def test_a_server_that_ignores_matching_keys(
    key, wanted, is_returned, bright, dark, detector, tmp_path
):
    archive = Archive(tmp_path, film(bright, 1), film(dark, 2, StudyDate="20210304"))
    archive.is_deaf = True
    archive.unnamed = () if is_returned else (key,)
    with serving(archive.answer) as server:
        summary = score_batch(DicomwebInput(server.url, wanted), tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", ""), "2": ("skipped", "not_asked_for")}


def test_compressed_answers(bright, detector, tmp_path):
    archive = Archive(tmp_path, film(bright, 1))
    archive.compress = True
    with serving(archive.answer) as server:
        source = DicomwebInput(server.url, Query(studies=(f"{SERIES}.1",)))
        summary = score_batch(source, tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", "")}


def test_a_compressed_answer_that_is_damaged_or_too_long(bright, tmp_path):
    archive = Archive(tmp_path, film(bright, 1))
    with serving(archive.answer) as server:
        source = DicomwebInput(server.url, Query(studies=(f"{SERIES}.1",)), max_file_bytes=100_000)
        (entry,) = source.query(ScoreSettings())
        bomb = gzip.compress(b"\0" * 5_000_000)
        for body, expected in (
            (b"no gzip", ("failed", "not_retrieved", "the compressed answer is damaged")),
            (bomb, ("rejected", "resource_limit", "")),
        ):
            headers = {"Content-Type": "application/dicom", "Content-Encoding": "gzip"}
            server.answer = lambda handler, body=body, headers=headers: (200, headers, body)
            (found,) = source.fetch([entry], tmp_path / "f", lambda entry: False, None)
            assert (found.status, found.reason, found.detail) == expected
