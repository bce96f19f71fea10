"""A DICOMweb server that lies, breaks off and stumbles: each image ends with exactly one status."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.inputs import dicomweb
from pneumonia.scoring.inputs.dicomweb import DicomwebInput
from pneumonia.scoring.inputs.query import Query
from pneumonia.scoring.network import dicomweb_service
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.patients import patient

STUDY = f"{SERIES}.1"
NAMES = ("good", "missing", "other", "cut", "stumble", "bare", "huge", "text", "drop", "error")


def uid(name):
    return f"{SERIES}.7.{NAMES.index(name)}"


def attribute(value):
    return {"vr": "UI", "Value": [value]}


def part(data):
    return b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--cut--\r\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.asked.append((path, query, dict(self.headers)))
        steps = path.strip("/").split("/")
        if self.server.only is not None:
            return self.answer(*self.server.only)
        if len(steps) == 6:
            return self.instance(steps[-1])
        if len(steps) == 4:  # whole series are not delivered
            return self.answer(406, "text/plain", b"")
        tag = {1: dicomweb.STUDY, 3: dicomweb.SERIES, 5: dicomweb.INSTANCE}[len(steps)]
        values = {1: [STUDY], 3: [f"{STUDY}.1"], 5: [uid(name) for name in NAMES]}[len(steps)]
        offset = int(dict(pair.split("=") for pair in query.split("&"))["offset"])
        found = [{tag: attribute(value)} for value in values + self.server.extra[len(steps)]]
        found[0][dicomweb.MODALITY] = attribute("DX")
        page = found[offset : offset + self.server.page]
        return self.answer(
            200 if page else 204, "application/dicom+json", json.dumps(page).encode()
        )

    def instance(self, name):
        kind = NAMES[int(name.rsplit(".", 1)[1])]
        data = self.server.files["good" if kind == "other" else kind]
        multipart = 'multipart/related; type="application/dicom"; boundary="cut"'
        if kind == "missing":
            return self.answer(404, "text/plain", b"")
        if kind == "error":
            return self.answer(500, "text/plain", b"")
        if kind == "stumble" and self.server.stumbles:
            self.server.stumbles -= 1
            return self.answer(503, "text/plain", b"")
        if kind == "bare":
            return self.answer(200, "application/dicom", data)
        if kind == "cut":  # the multipart ends without its end
            return self.answer(200, multipart, part(data)[:-200])
        if kind == "drop":
            return self.answer(200, multipart, part(data)[:300], len(part(data)))
        return self.answer(200, multipart, part(data))

    def answer(self, status, kind, data, length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        if length is not None:
            self.close_connection = True


@pytest.fixture
def server(tmp_path, bright, monkeypatch):
    files = {}
    for name in NAMES:
        tags = patient(1, SOPInstanceUID=uid(name))
        files[name] = save(tmp_path / name, chest_dataset(bright, **tags)).read_bytes()
    files["text"] = b"this is not DICOM" * 9
    files["huge"] += b"\0" * 300_000
    monkeypatch.setattr(dicomweb, "PAGE", 4)
    retries = dicomweb_service.RETRIES.new(backoff_factor=0.01)
    monkeypatch.setattr(dicomweb_service, "RETRIES", retries)
    with serving() as found:
        found.files = files
        yield found


@contextmanager
def serving():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.only, found.stumbles, found.page = [], None, 2, 4
    found.extra = {1: [], 3: [], 5: []}
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()


def opened(server, **options):
    return DicomwebInput(f"http://127.0.0.1:{server.server_port}/", Query((STUDY,)), **options)


def test_each_image_ends_with_one_status(server, detector, tmp_path):
    source = opened(server, max_file_bytes=200_000)
    summary = score_batch(source, tmp_path / "out", detector)
    found = {r.file.image_id: (r.status, r.reason) for r in summary.records}
    assert found == {
        uid("good"): ("scored", ""),
        uid("missing"): ("failed", "not_retrieved"),
        uid("other"): ("failed", "wrong_object"),
        uid("cut"): ("failed", "not_retrieved"),
        uid("stumble"): ("scored", ""),
        uid("bare"): ("scored", ""),
        uid("huge"): ("rejected", "resource_limit"),
        uid("text"): ("rejected", "not_dicom"),
        uid("drop"): ("failed", "not_retrieved"),
        uid("error"): ("failed", "not_retrieved"),
    }
    details = {r.file.image_id: r.file.detail for r in summary.records if r.file.detail}
    assert details == {
        uid("missing"): "HTTP 404",
        uid("cut"): "multipart is cut off or malformed",
        uid("drop"): "the transfer broke off",
        uid("error"): "HTTP 500",
    }
    manifest = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert {json.loads(line).get("detail", "") for line in manifest} == {"", *details.values()}
    report = (tmp_path / "out" / "report.html").read_text()
    assert all(detail in report for detail in details.values())
    assert server.stumbles == 0
    assert not (tmp_path / "out" / "fetched").exists()


def test_the_next_run_asks_for_what_is_missing_only(server, detector, tmp_path):
    score_batch(opened(server), tmp_path / "out", detector)
    server.asked.clear()
    score_batch(opened(server), tmp_path / "out", detector, ScoreSettings(refetch=False))
    again = {path.rsplit("/", 1)[1] for path, _, _ in server.asked if path.count("/") == 6}
    assert again == {uid(name) for name in ("missing", "other", "cut", "text", "drop", "error")}


def test_what_an_interrupted_run_fetched_is_used(server, detector, tmp_path):
    def interrupt(done, total, note):
        if note == "fetch" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_batch(opened(server), tmp_path / "out", detector, None, interrupt)
    assert (tmp_path / "out" / "fetched").stat().st_mode & 0o077 == 0  # it names patients
    server.asked.clear()
    score_batch(opened(server), tmp_path / "out", detector)
    again = {path.rsplit("/", 1)[1] for path, _, _ in server.asked if path.count("/") == 6}
    assert uid("good") not in again


def test_pages_are_asked_for_until_there_are_no_more(server):
    entries = opened(server).query(ScoreSettings())
    assert len(entries) == len(NAMES)
    offsets = [query for path, query, _ in server.asked if path.endswith("/instances")]
    assert offsets == [f"limit=4&offset={offset}" for offset in (0, 4, 8)]


def test_a_server_that_ignores_the_offset_ends(server):
    server.page = 1000
    assert len(opened(server).query(ScoreSettings())) == len(NAMES)


def test_uids_that_are_none_are_never_used(server):
    server.extra = {1: ["../../x", ""], 3: ["1.2/3"], 5: ["../../../etc/passwd", "1..2", "x" * 9]}
    assert len(opened(server).query(ScoreSettings())) == len(NAMES)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ((401, "text/plain", b""), "HTTP 401"),
        ((500, "text/plain", b""), "HTTP 500"),
        ((200, "text/html", b"<html>log in</html>"), "no JSON"),
        ((200, "application/json", b'{"a": 1}'), "JSON of another kind"),
        ((200, "application/json", b"[" * 100_000), "no JSON"),
        ((200, "application/json", b"[1]"), "JSON of another kind"),
        ((200, "application/json", b"[", 50), ""),
    ],
)
def test_a_query_without_an_answer_is_one_error(server, answer, word, detector, tmp_path):
    server.only = answer
    with pytest.raises(DataError, match="does not answer the query") as error:
        score_batch(opened(server), tmp_path / "out", detector)
    assert word in str(error.value)
    assert STUDY not in str(error.value)


def test_nobody_there(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(
        dicomweb_service, "RETRIES", dicomweb_service.RETRIES.new(backoff_factor=0.01)
    )
    with serving() as server:
        source = opened(server)
    with pytest.raises(DataError, match="the connection failed"):
        score_batch(source, tmp_path / "out", detector)


def test_credentials_are_sent_and_written_nowhere(server, detector, tmp_path, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_TOKEN", "SECRETTOKEN")
    score_batch(opened(server), tmp_path / "out", detector)
    assert {headers["Authorization"] for _, _, headers in server.asked} == {"Bearer SECRETTOKEN"}
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes()


def test_user_and_password(server, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_USER", "me")
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_PASSWORD", "secret")
    opened(server).query(ScoreSettings())
    assert server.asked[0][2]["Authorization"] == "Basic bWU6c2VjcmV0"


def test_an_unsigned_certificate_is_refused():
    with pytest.raises(ConfigError, match="File of certificates"):
        DicomwebInput(
            "https://localhost/", Query((STUDY,)), ca_file=__import__("pathlib").Path("x")
        )
