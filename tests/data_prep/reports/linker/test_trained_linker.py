"""A trained linker: learnt from a small collection, stored, loaded, and on real reports."""

import json
from pathlib import Path

import pytest

from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.findings.linking import DictionaryLinker, link_report
from data_prep.reports.linker.measure import count_codes, micro_f1
from data_prep.reports.linker.trained_linker import (
    TrainedLinker,
    judge,
    parse,
    report_codes,
    train_on,
)
from data_prep.reports.linker.training import LinkerSettings
from data_prep.reports.reading.files import read_reports
from data_prep.reports.reading.splitting import split_reports
from pneumonia.runtime.errors import ArtefactError, DataError, OutputError, PneumoniaError
from tests.data_prep.reports.conftest import make_reports, write_reports

CONFIG = LinkerSettings(epochs=6, dimensions=16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedLinker, list, Path]:
    folder = tmp_path_factory.mktemp("linker")
    source = write_reports(folder / "reports.csv", make_reports(300))
    linker, test = train_on(source, CONFIG)
    linker.save(folder / "saved")
    return linker, test, folder / "saved"


def test_codes_that_follow_from_the_words_are_learnt(trained: tuple) -> None:
    linker, test, _ = trained
    assert len(test) == 60
    found = judge(linker, test)
    assert found["headings"].f1 > 0.97
    assert found["codes"].f1 > 0.9  # the impression's bare "opacity" must not add a code


def test_absent_findings_are_linked_too_and_never_coded(trained: tuple) -> None:
    linker, _, _ = trained
    text = "FINDINGS: There is opacity in the left base. No pleural effusion."
    one, two = link_report(text, linker.base, linker)
    assert (one.code, one.assertion) == ("Opacity/lung/base/left", "present")
    assert (two.heading, two.assertion) == ("Pleural Effusion", "absent")
    assert 0.2 < one.score <= 1  # the largest share of at most nine candidates
    assert link_report("FINDINGS: Nothing to say.", linker.base, linker) == []


def test_a_linker_comes_back_as_it_was(trained: tuple) -> None:
    linker, test, folder = trained
    again = TrainedLinker.load(folder)
    assert again.config == linker.config
    for report in test:
        assert link_report(report.text, again.base, again) == link_report(
            report.text, linker.base, linker
        )


def test_a_linker_folder_is_json_and_safetensors(trained: tuple) -> None:
    folder = trained[2]
    assert sorted(path.name for path in folder.iterdir()) == [
        "concepts.json", "linker.json", "weights.safetensors",
    ]  # fmt: skip


def damage(folder: Path, out: Path, how: str) -> None:
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    table = json.loads((out / "linker.json").read_text())
    weights = out / "weights.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:500])
    elif how == "missing":
        weights.unlink()
    elif how == "config":
        table["config"]["hops"] = 9
    elif how == "words":
        table["words"].pop()
    elif how == "priors":
        table["priors"] = {"headings": 3}
    elif how == "model":
        table["config"]["local"] = "cnn"
    elif how == "schema":
        table["schema"] = "x"
    (out / "linker.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("how", "error"),
    [("truncated", ArtefactError), ("missing", DataError), ("config", ArtefactError),
     ("words", ArtefactError), ("priors", ArtefactError), ("model", ArtefactError),
     ("schema", DataError)],
)  # fmt: skip
def test_a_damaged_linker_is_one_line(
    tmp_path: Path, trained: tuple, how: str, error: type[PneumoniaError]
) -> None:
    damage(trained[2], tmp_path / "bad", how)
    with pytest.raises(error) as caught:
        TrainedLinker.load(tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_a_foreign_folder_is_not_replaced(tmp_path: Path, trained: tuple) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="other files"):
        trained[0].save(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()
    trained[0].save(trained[2])  # its own folder is


def test_reports_without_codes_cannot_train(tmp_path: Path) -> None:
    bare = [report._replace(codes=()) for report in make_reports(20)]
    with pytest.raises(DataError, match="Too few reports"):
        train_on(write_reports(tmp_path / "r.csv", bare), CONFIG)


@pytest.mark.real_data
def test_the_shipped_base_codes_real_reports_without_training(
    openi_csv: Path, base: ConceptBase
) -> None:
    """The validation part, by the vocabulary alone: what a user gets without a linker."""
    reports = list(read_reports(openi_csv))
    assert len(reports) == 3955
    assert {report.reason for report in reports} == {"", "empty"}
    part = split_reports([report.report_id for report in reports])
    chosen = parse(base, [r for r in reports if part[r.report_id] == "val" and r.codes])
    linker = DictionaryLinker(base)
    codes = [
        report_codes(linker.link("", [m for m in r.mentions if m.assertion == "present"]))
        for r in chosen
    ]
    gold = [r.codes for r in chosen]
    assert micro_f1(count_codes(codes, gold, "heading")) > 0.86
    assert micro_f1(count_codes(codes, gold, "code")) > 0.61


@pytest.mark.real_data
def test_the_xml_and_the_csv_of_openi_are_the_same_reports(openi_csv: Path, tmp_path: Path) -> None:
    import tarfile

    archive = openi_csv.with_name("NLMCXR_reports.tgz")
    if not archive.is_file():
        pytest.skip(f"{archive} is missing")
    with tarfile.open(archive) as tar:
        members = [
            m for m in tar.getmembers() if m.name.endswith(("/100.xml", "/2.xml", "/1002.xml"))
        ]
        tar.extractall(tmp_path, members, filter="data")
    by_id = {report.report_id: report for report in read_reports(openi_csv)}
    found = list(read_reports(tmp_path))
    assert len(found) == 3
    for report in found:
        assert report.codes == by_id[report.report_id].codes
        assert report.text.split() == by_id[report.report_id].text.split()
