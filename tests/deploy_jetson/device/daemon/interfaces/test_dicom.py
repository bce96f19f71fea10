"""DICOM in and out, judged by dcmtk and Orthanc.

Spans: deploy_jetson.device.daemon.interfaces.dicom_receive,
deploy_jetson.device.daemon.interfaces.dicom_send.
"""

import contextlib
import json
import socket
import struct
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("pynetdicom")

from deploy_jetson.device.daemon.interfaces.dicom_send import ResultSender, backoff_s
from deploy_jetson.device.daemon.interfaces.store_request import file_head
from deploy_jetson.device.daemon.settings import (
    DicomSettings,
    DiskSettings,
    QueueSettings,
    ResultDestination,
    ResultsSettings,
    RetrySettings,
)
from deploy_jetson.device.daemon.store.spool import dataset_offset, sop_uid_of
from pneumonia.runtime.image.decodable import decodable_syntaxes
from tests.deploy_jetson.device.daemon.certificates import (
    make_certificates,
    make_expired_certificates,
)
from tests.deploy_jetson.device.daemon.interfaces.dicom_wire import (
    UID,
    associated,
    association,
    command,
    connect,
    context,
    data_set,
    data_unit,
    receive,
)
from tests.deploy_jetson.device.daemon.interfaces.dicom_wire import store as store_by_hand
from tests.deploy_jetson.device.daemon.rig import film, running, settings
from tests.runtime.dicoms import DX, JPEG, LITTLE, chest_dataset, jpeg_bytes, save, save_compressed
from tests.scoring.network.archive import archive
from tests.support.peers import free_port, peer, run_peer, running_orthanc
from tests.support.waiting import wait_for

KINDS = ("sr", "gsps", "sc")
DICOM = DicomSettings(port=0, aet="PNEUMO", timeout_s=60)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("deploy_jetson.device.daemon.interfaces.dicom_send.POLL_S", 0.05)


def store(rig, *arguments, aec="PNEUMO"):
    done = run_peer(
        "storescu", "-v", "-aec", aec, "127.0.0.1", rig.service.ports["dicom"], *arguments
    )
    return done.returncode, done.stdout + done.stderr


def counts(rig):
    return rig.service.journal.counts()


def test_file_head_is_what_the_spool_reads():
    head = file_head("1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4", "1.2.840.10008.1.2.1")
    assert dataset_offset(head) == len(head)
    assert sop_uid_of(head + b"dataset") == "1.2.3.4"
    for cut in range(len(head)):
        assert sop_uid_of(head[:cut]) in ("", "1.2.3.4")  # and no exception


@pytest.mark.interop
def test_storescu_to_an_answer_and_again(tmp_path):
    path = film(tmp_path / "a.dcm")
    with running(settings(tmp_path / "state", dicom=DICOM), child=True) as rig:
        assert store(rig, path)[0] == 0
        assert store(rig, path)[0] == 0
        wait_for(lambda: counts(rig)["done"] == 1)
        assert sum(counts(rig).values()) == 1
        job = rig.get("/v1/jobs")[1]["jobs"][0]
        assert job["via"] == "dicom"
        # the same image by HTTP is the same image
        assert rig.post(path.read_bytes())[1] == {
            "job": job["job"], "status": "done", "known": True,
        }  # fmt: skip
        echo = run_peer("echoscu", "-aec", "PNEUMO", "127.0.0.1", rig.service.ports["dicom"])
        assert echo.returncode == 0


@pytest.mark.interop
def test_jpeg_baseline_and_a_syntax_that_is_not_decoded(tmp_path):
    pixels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    path = tmp_path / "jpeg.dcm"
    save_compressed(path, chest_dataset(pixels), jpeg_bytes(pixels), JPEG)
    with running(settings(tmp_path / "state", dicom=DICOM), child=True) as rig:
        assert store(rig, "-xy", path)[0] == 0
        wait_for(lambda: counts(rig)["done"] == 1)
        assert "1.2.840.10008.1.2.4.100" not in decodable_syntaxes()  # MPEG-2
        assert "1.2.840.10008.1.2.1.99" not in decodable_syntaxes()  # deflated: a bomb's fuse


@pytest.mark.interop
def test_strangers_are_turned_away(tmp_path):
    path = film(tmp_path / "a.dcm")
    dicom = DICOM._replace(allow_aets=("FRIEND",))
    with running(settings(tmp_path / "state", dicom=dicom), work=False) as rig:
        assert "Called AE Title Not Recognized" in store(rig, path, aec="OTHER")[1]
        assert "Calling AE Title Not Recognized" in store(rig, path)[1]
        assert store(rig, "-aet", "FRIEND", path)[0] == 0
        assert counts(rig)["received"] == 1
    dicom = DICOM._replace(allow=("10.0.0.0/8",))
    with running(settings(tmp_path / "other", dicom=dicom), work=False) as rig:
        assert store(rig, path)[0] != 0
        assert sum(counts(rig).values()) == 0


@pytest.mark.interop
def test_full_disk_full_queue_and_too_large_have_statuses(tmp_path):
    path = film(tmp_path / "a.dcm")
    config = settings(tmp_path / "state", dicom=DICOM, queue=QueueSettings(max_images=1))
    with running(config._replace(disk=DiskSettings(reserve_mb=1e6)), work=False) as rig:
        assert "Refused: OutOfResources" in store(rig, path)[1]
    with running(config, work=False) as rig:
        assert store(rig, path)[0] == 0
        assert "Refused: OutOfResources" in store(rig, film(tmp_path / "b.dcm", 1, "2"))[1]
        assert counts(rig)["received"] == 1
    config = settings(tmp_path / "other", dicom=DICOM, queue=QueueSettings(max_image_mb=0.001))
    with running(config, work=False) as rig:
        assert "CannotUnderstand" in store(rig, path)[1].replace(" ", "")


def test_an_overlong_image_does_not_cost_the_next_one(tmp_path):
    """The answer is a failure of this object; the association stays, and the memory is bounded."""
    from pynetdicom import AE

    config = settings(tmp_path / "state", dicom=DICOM, queue=QueueSettings(max_image_mb=0.5))
    with running(config, work=False) as rig:
        entity = AE()
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1")
        link = entity.associate("127.0.0.1", rig.service.ports["dicom"], ae_title="PNEUMO")
        large = chest_dataset(np.zeros((2000, 2000), np.uint16), SOPInstanceUID="1.2.3.4")
        statuses = []
        for dataset in (large, chest_dataset(np.zeros((64, 64), np.uint8)), large):
            path = tmp_path / "film.dcm"
            save(path, dataset)
            statuses.append(link.send_c_store(pydicom.dcmread(path)).get("Status"))
        assert statuses == [0xC000, 0x0000, 0xC000]
        assert counts(rig)["received"] == 1
        link.release()


def test_an_endless_image_is_cut_off(tmp_path):
    from pynetdicom import AE

    config = settings(tmp_path / "state", dicom=DICOM, queue=QueueSettings(max_image_mb=0.5))
    with running(config, work=False) as rig:
        entity = AE()
        entity.dimse_timeout = 2
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1")
        link = entity.associate("127.0.0.1", rig.service.ports["dicom"], ae_title="PNEUMO")
        assert link.is_established
        path = tmp_path / "large.dcm"
        save(path, chest_dataset(np.zeros((2000, 2000), np.uint16)))
        dataset = pydicom.dcmread(path)
        with contextlib.suppress(RuntimeError):
            status = link.send_c_store(dataset)
            assert "Status" not in status or status.Status == 0xC000
        link.abort()
        wait_for(lambda: rig.service.interfaces["dicom"].connections == 0)
        assert list((tmp_path / "state" / "incoming").iterdir()) == []


@pytest.mark.interop
def test_idle_sockets_and_garbage_free_their_places(tmp_path):
    dicom = DICOM._replace(max_associations=3, timeout_s=1)
    with running(settings(tmp_path / "state", dicom=dicom), child=True) as rig:
        address = ("127.0.0.1", rig.service.ports["dicom"])
        idle = [socket.create_connection(address) for _ in range(3)]
        idle[1].sendall(b"GET / HTTP/1.0\r\n\r\n")
        idle[2].sendall(b"\1\0\xff\xff\xff\xff")
        path = film(tmp_path / "a.dcm")
        wait_for(lambda: store(rig, path)[0] == 0)
        for link in idle:
            link.close()
        wait_for(lambda: counts(rig)["done"] == 1)


def test_a_sender_that_dies_in_the_middle_leaves_nothing(tmp_path):
    with running(settings(tmp_path / "state", dicom=DICOM), work=False) as rig:
        dicom = rig.service.interfaces["dicom"]
        with connect(rig.service.ports["dicom"]) as link:
            link.sendall(association(context(1, [LITTLE])))
            assert receive(link)[0] == 0x02
            link.sendall(data_unit(3, command(DX, UID)))
            for _ in range(100):
                link.sendall(data_unit(0, bytes(4096)))  # parts of a data set, not the last one
            wait_for(lambda: dicom.connections == 1)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: dicom.connections == 0)
        assert list((tmp_path / "state" / "incoming").iterdir()) == []
        assert sum(counts(rig).values()) == 0
        with associated(rig.service.ports["dicom"]) as link:
            assert store_by_hand(link, DX, UID, data_set(tmp_path)) == 0x0000


@pytest.mark.interop
def test_tls_on_both_sides(tmp_path):
    files, other = make_certificates(tmp_path), make_certificates(tmp_path / "other")
    old = make_expired_certificates(tmp_path / "old")
    authorities = tmp_path / "authorities.pem"
    authorities.write_text("".join(Path(one["cert"]).read_text() for one in (files, old)))
    dicom = DICOM._replace(tls_cert=files["cert"], tls_key=files["key"], tls_ca=str(authorities))
    with running(settings(tmp_path / "state", dicom=dicom), work=False) as rig:
        path = film(tmp_path / "a.dcm")
        assert store(rig, path)[0] != 0  # plain
        for stranger in (other, old):
            assert store(rig, *secured(stranger, files), path)[0] != 0
        assert store(rig, *secured(files, other), path)[0] != 0  # it does not trust us
        assert counts(rig)["received"] == 0
        status, text = store(rig, *secured(files, files), path)
        assert status == 0, text
        assert counts(rig)["received"] == 1


def secured(own, trusted):
    """dcmtk's options for TLS with its certificate and the authority it trusts."""
    return "+tls", own["key"], own["cert"], "+cf", trusted["cert"]


# --- out ---


def out_settings(tmp_path, port, **more):
    """Results to a peer on `port`."""
    return settings(
        tmp_path / "state",
        results=ResultsSettings(KINDS),
        retry=RetrySettings(first_s=0.05, longest_s=0.2, max_attempts=more.pop("attempts", 60)),
        destinations={"pacs": ResultDestination("127.0.0.1", port, "PEER", timeout_s=60, **more)},
    )


@contextlib.contextmanager
def receiver(folder, port, *options):
    """dcmtk's storescp."""
    folder.mkdir(exist_ok=True)
    command = [peer("storescp"), "-od", str(folder), "-aet", "PEER", *options, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        process.kill()
        process.wait()


def states(rig, job):
    return [sent["state"] for sent in rig.get("/v1/jobs/" + job)[1]["deliveries"]]


@pytest.mark.interop
def test_an_archive_that_is_down_gets_everything_when_it_comes_back(tmp_path):
    port = free_port()
    with running(out_settings(tmp_path, port), child=True) as rig:
        job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
        rig.settled(job)
        wait_for(lambda: rig.get("/v1/jobs/" + job)[1]["deliveries"][0]["attempts"] >= 3)
        assert states(rig, job) == ["pending"] * 3
        with receiver(tmp_path / "got", port) as got:
            wait_for(lambda: states(rig, job) == ["sent"] * 3)
            assert sorted(path.name[:2] for path in got.iterdir()) == ["PS", "SC", "SR"]
        text = rig.request("GET", "/metrics")[1].decode()
        assert 'pneumonia_deliveries_total{destination="pacs",state="sent"} 3.0' in text


@pytest.mark.interop
@pytest.mark.parametrize("fault", ["--abort-during", "--abort-after", "--refuse"])
def test_an_archive_that_aborts_is_not_taken_for_one_that_has_it(tmp_path, fault):
    port = free_port()
    config = out_settings(tmp_path, port, attempts=4, kinds=("sr",))
    with receiver(tmp_path / "got", port, fault), running(config, child=True) as rig:
        job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
        wait_for(lambda: states(rig, job) == ["failed"])
        (sent,) = rig.get("/v1/jobs/" + job)[1]["deliveries"]
        assert sent["attempts"] == 4
        assert sent["code"] in ("association_lost", "rejected", "no_association")
        assert rig.request("GET", f"/v1/jobs/{job}/sr")[0] == 200  # the result is kept


def answering(port, status, context=None):
    """A peer that answers every object with one status."""
    from pynetdicom import AE, evt

    entity = AE(ae_title="PEER")
    for uid in ("88.33", "11.1", "7"):
        entity.add_supported_context("1.2.840.10008.5.1.4.1.1." + uid)
    handlers = [(evt.EVT_C_STORE, lambda event: status)]
    return entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context
    )


@pytest.mark.parametrize("case", ["meant", "client_cert", "authority", "name", "expired", "ours"])
def test_results_go_by_tls_to_the_peer_that_is_meant_and_to_no_other(tmp_path, case):
    """A peer of another authority or name, an expired certificate, none of ours: nothing is sent"""
    from pneumonia.runtime.connections import server_context

    files, own = make_certificates(tmp_path), make_certificates(tmp_path / "own")
    if case == "name":
        files = make_certificates(tmp_path, "DNS:elsewhere.example,IP:127.0.0.2")
    elif case == "expired":
        files = make_expired_certificates(tmp_path / "old")
    trusted = make_certificates(tmp_path / "other") if case == "authority" else files
    more = {"attempts": 2, "kinds": ("sr",), "tls_ca": trusted["cert"]}
    if case == "client_cert":
        more.update(tls_cert=own["cert"], tls_key=own["key"])
    clients = own["cert"] if case in ("client_cert", "ours") else ""
    port = free_port()
    server = answering(port, 0x0000, server_context(files["cert"], files["key"], clients))
    try:
        with running(out_settings(tmp_path, port, **more), child=True) as rig:
            job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
            expected = ["sent"] if case in ("meant", "client_cert") else ["failed"]
            wait_for(lambda: states(rig, job) == expected)
            (sent,) = rig.get("/v1/jobs/" + job)[1]["deliveries"]
            assert sent["code"] == ("0000" if expected == ["sent"] else "no_association")
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [(0xB000, "sent_with_warning", "B000"), (0xA700, "failed", "A700"), (0xC001, "failed", "C001")],
)
def test_what_the_archive_says_is_what_stands_there(tmp_path, status, state, code):
    port = free_port()
    server = answering(port, status)
    try:
        config = out_settings(tmp_path, port, attempts=2, kinds=("sr",))
        with running(config, child=True) as rig:
            job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
            wait_for(lambda: states(rig, job) == [state])
            (sent,) = rig.get("/v1/jobs/" + job)[1]["deliveries"]
            assert (sent["code"], sent["attempts"]) == (code, 1 if state[0] == "s" else 2)
    finally:
        server.shutdown()


def test_back_off_doubles_is_bounded_and_has_jitter():
    retry = RetrySettings(first_s=5, longest_s=900)
    assert [backoff_s(n, retry, 1.0) for n in (1, 2, 3, 8, 9, 1000)] == [
        5, 10, 20, 640, 900, 900,
    ]  # fmt: skip
    assert backoff_s(3, retry, 0.0) == 10


def test_a_clock_set_back_does_not_hold_deliveries(tmp_path):
    with running(settings(tmp_path), work=False) as rig:
        journal = rig.service.journal
        journal.mark_answered("job", "done", "", [("pacs", "sr")])
        (due,) = journal.due("pacs", 1e9, 900)
        journal.update_delivery(due._replace(next_try=1.1e9))
        assert journal.due("pacs", 1.1e9 - 100, 900) == []
        assert len(journal.due("pacs", 1.1e9, 900)) == 1
        assert len(journal.due("pacs", 1.0e9, 900)) == 1
        assert journal.due("other", 2e9, 900) == []


def test_a_missing_result_file_is_reported(tmp_path):
    port = free_port()
    config = out_settings(tmp_path, port)
    with running(config, work=False) as rig:
        service = rig.service
        service.journal.mark_answered("0" * 32, "done", "", [("x", "sr")])
        sender = ResultSender(
            "x", config.destinations["pacs"], config.retry, service.spool, service.journal,
            service.metrics,
        )  # fmt: skip
        server = answering(port, 0x0000)
        try:
            sender.send_due()
        finally:
            server.shutdown()
        (sent,) = service.journal.deliveries_of("0" * 32)
        assert (sent.state, sent.code) == ("failed", "file_missing")


# --- storage commitment ---


def commit_settings(tmp_path, port, **more):
    """Results with storage commitment, and a port for reports."""
    config = out_settings(tmp_path, port, **more)
    dicom = DICOM._replace(aet="PNEUMONIA", port=free_port())
    return config._replace(dicom=dicom)


def committed(tmp_path, archive, port, expected, **more):
    """Score a film, wait for its deliveries' states, and return their codes."""
    more = {"commit_s": 60, **more}
    config = commit_settings(tmp_path, port, **more)
    if archive.own_port == 0:
        archive.own_port = config.dicom.port
    with running(config, child=True) as rig:
        job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
        wait_for(lambda: states(rig, job) == expected)
        deliveries = rig.get("/v1/jobs/" + job)[1]["deliveries"]
        return [(sent["code"], sent["attempts"]) for sent in deliveries]


@pytest.mark.parametrize("own_port", [None, 0], ids=["same association", "own association"])
def test_sent_means_that_the_archive_keeps_it(tmp_path, own_port):
    with archive(own_port=own_port) as (pacs, at):
        found = committed(tmp_path, pacs, at.port, ["sent"] * 3)
        assert found == [("0000", 1)] * 3
        assert pacs.requests == 1
        assert len(pacs.stored) == 3


def test_what_the_archive_has_lost_is_sent_again_and_only_that(tmp_path):
    with archive() as (pacs, at):
        stored = pacs.store

        def losing(event):
            if not pacs.stored:
                pacs.lost.add(str(event.request.AffectedSOPInstanceUID))
            else:
                pacs.lost -= {str(event.request.AffectedSOPInstanceUID)} & set(pacs.stored)
            return stored(event)

        pacs.store = losing
        found = committed(tmp_path, pacs, at.port, ["sent"] * 3)
        assert sorted(found) == [("0000", 1)] * 2 + [("0000", 2)]
        assert len(pacs.stored) == 4
        assert len(set(pacs.stored)) == 3


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"answer": 0x0110}, "0110"),
        ({"is_silent": True}, "no_commitment_report"),
        ({"transaction": "1.2.3"}, "no_commitment_report"),
        ({"is_offered": False}, "commitment_refused"),
    ],
)
def test_without_a_promise_nothing_counts_as_sent(tmp_path, changed, code):
    with archive(**changed) as (pacs, at):
        more = {"commit_s": 0.3, "attempts": 2, "kinds": ("sr",)}
        assert committed(tmp_path, pacs, at.port, ["failed"], **more) == [(code, 2)]
        assert len(set(pacs.stored)) == 1


@pytest.mark.slow
@pytest.mark.interop
def test_orthanc_commits_to_results(tmp_path):
    config = commit_settings(tmp_path, 1, commit_s=30)
    modalities = {"DAEMON": ["PNEUMONIA", "127.0.0.1", config.dicom.port]}
    with running_orthanc(tmp_path, DicomModalities=modalities) as orthanc:
        target = config.destinations["pacs"]._replace(aet="ORTHANC", port=orthanc.dicom_port)
        with running(config._replace(destinations={"pacs": target}), child=True) as rig:
            job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
            wait_for(lambda: set(states(rig, job)) == {"sent"})
            assert len(orthanc.get("/instances")) == 3


@pytest.mark.slow
@pytest.mark.interop
def test_orthanc_sends_an_image_and_gets_its_results(tmp_path):
    port = free_port()
    dicom = DICOM._replace(port=port)
    modalities = {"DAEMON": ["PNEUMO", "127.0.0.1", port]}
    with running_orthanc(tmp_path, DicomModalities=modalities) as orthanc:
        config = out_settings(tmp_path, orthanc.dicom_port)._replace(dicom=dicom)
        target = config.destinations["pacs"]._replace(aet="ORTHANC")
        config = config._replace(destinations={"pacs": target})
        assert orthanc.store(film(tmp_path / "a.dcm")).returncode == 0
        (instance,) = orthanc.get("/instances")
        with running(config, child=True) as rig:
            answer = json.loads(
                orthanc.request("/modalities/DAEMON/store", instance.encode(), "POST")
            )
            assert answer["FailedInstancesCount"] == 0
            wait_for(lambda: len(orthanc.get("/instances")) == 4)
            assert len(orthanc.get("/studies")) == 1  # the results lie in that of the image
            series = [orthanc.get("/series/" + one) for one in orthanc.get("/series")]
            found = sorted(one["MainDicomTags"]["Modality"] for one in series)
            assert found == ["DX", "OT", "PR", "SR"]
            job = rig.get("/v1/jobs")[1]["jobs"][0]["job"]
            wait_for(lambda: set(states(rig, job)) == {"sent"})
            # sent again, they are the same objects
            with rig.service.journal.transaction() as database:
                database.execute("UPDATE deliveries SET state='pending'")
            wait_for(lambda: set(states(rig, job)) == {"sent"})
            assert len(orthanc.get("/instances")) == 4
