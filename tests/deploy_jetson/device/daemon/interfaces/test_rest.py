"""The HTTP interface: what it takes, what it answers, and what it withstands."""

import contextlib
import http.client
import json
import socket
import subprocess

import numpy as np
import pytest

from deploy_jetson.device.daemon.settings import DiskSettings, QueueSettings, RestSettings
from tests.deploy_jetson.device.daemon.rig import SCORE, image, running, settings
from tests.support.waiting import wait_for


def test_an_image_is_answered_once(tmp_path):
    with running(settings(tmp_path / "state")) as rig:
        status, first = rig.post(image())
        assert (status, first["status"], first["known"]) == (202, "received", False)
        answer = rig.settled(first["job"])
        assert answer["status"] == "done"
        assert answer["engine"] == "one-box"
        assert answer["disclaimer"] == "Research use only. Not a medical device."
        assert answer["model"]["hash"] == rig.service.model.facts.model_hash
        assert answer["flag"] == "positive"
        (box,) = answer["findings"]
        assert box["score"] == pytest.approx(SCORE, abs=1e-5)
        assert np.all(np.array(box["box_xyxy"]) >= 0)
        status, again = rig.post(image())
        assert (status, again["job"], again["known"]) == (200, first["job"], True)
        assert rig.engine.runs == 2 + 1  # the warm-up, and one
        assert rig.get("/v1/jobs/" + first["job"])[1]["attempts"] == 1
        # counted after the answer was there
        wait_for(lambda: rig.service.metrics.value("images_total", status="done", reason="") == 1)
        text = rig.request("GET", "/metrics")[1].decode()
        assert 'pneumonia_images_total{reason="",status="done"} 1.0' in text
        assert 'pneumonia_duplicates_total{source="rest"} 1.0' in text
        assert 'pneumonia_decode_seconds_bucket{le="+Inf"} 1.0' in text


def test_questions(tmp_path):
    with running(settings(tmp_path / "state")) as rig:
        assert rig.request("GET", "/livez") == (200, b"ok\n")
        assert rig.get("/readyz") == (
            200, {"ready": True, "reasons": [], "engine": "one-box"},
        )  # fmt: skip
        model = rig.get("/v1/model")[1]
        assert model["threshold"] == model["operating_points"]["balanced"]
        assert rig.request("GET", "/v1/model/card")[1].startswith(b"#")
        job = rig.post(image())[1]["job"]
        rig.settled(job)
        listed = rig.get("/v1/jobs?status=done&limit=5")[1]
        assert [one["job"] for one in listed["jobs"]] == [job]
        assert rig.request("GET", f"/v1/jobs/{job}/sr")[0] == 404  # a picture has no study
        for path, status in {
            "/v1/jobs?status=odd": 400, "/v1/jobs?limit=-1": 400, "/nowhere": 404,
            "/v1/jobs/" + "0" * 32: 404, "/v1/jobs/../../etc/passwd": 404,
        }.items():  # fmt: skip
            assert rig.request("GET", path)[0] == status, path
        assert rig.request("POST", "/v1/jobs", b"x")[0] == 404
        assert rig.request("DELETE", "/v1/jobs")[0] == 501


def test_what_is_refused_is_not_kept(tmp_path):
    config = settings(tmp_path / "state", queue=QueueSettings(max_images=2, max_image_mb=0.01))
    with running(config, work=False) as rig:
        assert rig.post(b"")[0] == 400
        assert rig.post(b"x" * 20000) == (413, {"error": "too_large"})
        assert [rig.post(image(i))[0] for i in range(2)] == [202, 202]
        status, body = rig.post(image(2))
        assert (status, body) == (503, {"error": "queue_full"})
        assert rig.get("/readyz")[1]["reasons"] == ["queue_full"]
        assert len(list((tmp_path / "state" / "incoming").iterdir())) == 2
        assert rig.service.metrics.value("refused_total", reason="queue_full", source="rest") == 1


def test_disk_watermark(tmp_path):
    config = settings(tmp_path / "state", disk=DiskSettings(reserve_mb=1e6 - 1))
    with running(config, work=False) as rig:
        rig.service.spool.disk = lambda: type("Disk", (), {"total": 100, "used": 10, "free": 90})
        assert rig.post(image()) == (507, {"error": "disk_full"})
        assert rig.get("/readyz")[0] == 503


def raw(port, data, seconds=60):
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        link.sendall(data)
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_WR)
        parts = []
        while True:
            try:
                part = link.recv(65536)
            except ConnectionError:
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /v1/images HTTP/1.1\r\n\r\n", b"411"),
        (b"POST /v1/images HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"POST /v1/images HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", b"400"),
        (b"POST /v1/images HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"Bad Request"),
        (b"GET / HTTP/9.9\r\n\r\n", b"Version Not Supported"),
    ],
)
def test_odd_requests(tmp_path, request_bytes, status):
    with running(settings(tmp_path / "state"), work=False) as rig:
        answer = raw(rig.service.ports["rest"], request_bytes)
        assert status in answer.split(b"\r\n")[0] or status in answer
        assert b"aaaa" not in answer  # nothing of the request comes back


def test_a_body_that_ends_early_leaves_nothing(tmp_path):
    with running(settings(tmp_path / "state"), work=False) as rig:
        port = rig.service.ports["rest"]
        assert raw(port, b"POST /v1/images HTTP/1.1\r\nContent-Length: 50\r\n\r\nhalf") == b""
        assert rig.service.journal.waiting()[0] == 0
        assert list((tmp_path / "state" / "incoming").iterdir()) == []


def test_slow_callers_are_cut_and_delay_no_other_caller(tmp_path):
    rest = RestSettings(port=0, request_s=1.0, max_connections=4)
    with running(settings(tmp_path / "state", rest=rest)) as rig:
        port = rig.service.ports["rest"]
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for link in slow:
            link.sendall(b"POST /v1/images HTTP/1.1\r\nContent-Le")
        assert rig.request("GET", "/livez")[0] == 200  # a place is left
        for link in slow:
            link.settimeout(0.2)

        def all_are_cut():
            for link in list(slow):
                try:
                    link.sendall(b"x")  # a byte now and then keeps no connection open
                    if link.recv(1) == b"":
                        raise ConnectionError
                except TimeoutError:
                    continue
                except OSError:
                    link.close()
                    slow.remove(link)
            return not slow

        wait_for(all_are_cut)
        assert rig.post(image())[0] == 202


def test_token_and_allow_list(tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o600)
    rest = RestSettings(port=0, token_file=str(token))
    with running(settings(tmp_path / "state", rest=rest), work=False) as rig:
        assert rig.request("GET", "/livez")[0] == 200
        assert rig.request("GET", "/v1/jobs")[0] == 401
        assert rig.request("POST", "/v1/images", b"x", {"Authorization": "Bearer wrong"})[0] == 401
        good = {"Authorization": "Bearer 0123456789abcdef0123"}
        assert rig.request("GET", "/v1/jobs", headers=good)[0] == 200
    rest = RestSettings(port=0, allow=("10.0.0.0/8",))
    with running(settings(tmp_path / "other", rest=rest), work=False) as rig:
        assert raw(rig.service.ports["rest"], b"") == b""


def test_curl_waits_for_100_continue_only_when_welcome(tmp_path):
    config = settings(tmp_path / "state", queue=QueueSettings(max_image_mb=4))
    with running(config) as rig:
        port = rig.service.ports["rest"]
        for megabytes, status in ((2, "202"), (5, "413")):
            path = tmp_path / "big"
            path.write_bytes(b"x" * (megabytes << 20))
            command = [
                "curl", "-v", "-o", "/dev/null", "-w", "%{http_code}", "--expect100-timeout", "60",
            ]  # fmt: skip
            try:
                done = subprocess.run(
                    [*command, "-H", "Expect: 100-continue", "--data-binary", f"@{path}",
                     f"http://127.0.0.1:{port}/v1/images"],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
            except FileNotFoundError:
                pytest.skip("curl is not installed")
            assert done.stdout == status
            assert ("< HTTP/1.1 100 Continue" in done.stderr) == (status == "202")
            assert "Done waiting" not in done.stderr, "curl waited in vain for 100 Continue"


def ask(link):
    link.request("GET", "/livez")
    assert link.getresponse().status == 200


def test_tls_with_and_without_a_certificate_of_the_caller(tmp_path):
    import ssl

    from tests.deploy_jetson.device.daemon.certificates import make_certificates

    files = make_certificates(tmp_path)
    rest = RestSettings(port=0, tls_cert=files["cert"], tls_key=files["key"], tls_ca=files["cert"])
    with running(settings(tmp_path / "state", rest=rest), work=False) as rig:
        port = rig.service.ports["rest"]
        context = ssl.create_default_context(cafile=files["cert"])
        context.load_cert_chain(files["cert"], files["key"])
        link = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        link.request("POST", "/v1/images", image())
        answer = link.getresponse()
        assert (answer.status, json.loads(answer.read())["status"]) == (202, "received")
        link.close()
        stranger = ssl.create_default_context(cafile=files["cert"])
        link = http.client.HTTPSConnection("localhost", port, context=stranger, timeout=60)
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(link)
        assert b"ok" not in raw(port, b"GET /livez HTTP/1.0\r\n\r\n")
