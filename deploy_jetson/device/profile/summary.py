"""A profile in a few lines for a terminal; both front ends use it."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from deploy_jetson.device.profile.report import number
from deploy_jetson.device.profile.sweep import all_flags
from pneumonia.runtime.errors import DeviceError

HEADER = ("run", "p50 ms", "p99 ms", "gross mJ", "net mJ", "busy W", "idle W", "basis", "flags")
MAX_REMARKS = 20


def _median_mj(record: Optional[Dict[str, Any]]) -> str:
    return number(record["median"] * 1e3 if record else None)


def headline(
    document: Dict[str, Any],
) -> Tuple[str, Sequence[str], List[Sequence[str]], List[str]]:
    """Title, header, rows and remarks of a profile; `document` is its energy.json."""
    rows: List[Sequence[str]] = []
    for entry in document["runs"]:
        about, found = entry["about"], entry["figures"]
        total, latency = found["total"] or {}, found["latency_ms"] or {}
        bases = {about["latency_basis"], about["power_basis"]}
        rows.append(
            (
                entry["folder"].split("/", 1)[-1],
                number(latency.get("p50")),
                number(latency.get("p99")),
                _median_mj(total.get("gross_j_per_inference")),
                _median_mj(total.get("net_j_per_inference")),
                number(total.get("mean_w")),
                number(total.get("idle_w")),
                "/".join(sorted(bases)),
                str(len(found["flags"])),
            )
        )
    title = "energy per inference"
    if document["estimated"]:
        title = "ESTIMATED, not measured: energy per inference on a Jetson TX2"
    remarks = ["flagged: " + text for text in all_flags(document)]
    remarks += [
        "not run: {}, {}: {}".format(item["label"], item["engine"], item["why"])
        for item in document["skipped"]
    ]
    if len(remarks) > MAX_REMARKS:
        remarks = remarks[:MAX_REMARKS] + ["{} more in report.html".format(
            len(remarks) - MAX_REMARKS)]  # fmt: skip
    return title, HEADER, rows, remarks


def check_flags(document: Dict[str, Any]) -> None:
    """Raise an error where a run is flagged or an engine failed, for `--strict`.

    Raises:
        DeviceError: A run is flagged, or an engine could not be run.
    """
    found = all_flags(document) + [item["why"] for item in document["skipped"]]
    if found:
        raise DeviceError(
            "Profile is flagged",
            expected="no flag with --strict",
            found="{}: {}".format(len(found), found[0]),
            fix="The figures are written all the same",
        )
