"""The child that opens foreign files: a request a line in, one image or refusal out.

Run as `python3 -m deploy_jetson.device.daemon.decode_child MEMORY_MB`. An answer is a 4-byte
big-endian length, that many bytes of JSON, then `payload` bytes of pixels. Nothing is pickled, and
a file that crashes a decoder takes only this process with it.
"""

import base64
import json
import logging
import re
import resource
import sys
import time
from typing import Any, Dict, Tuple

from pneumonia.runtime.attributes import first_text
from pneumonia.runtime.child_channel import private_output, write_answer
from pneumonia.runtime.dicom_header import ReadLimits
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.radiograph import read_radiograph

MAX_HEADER_BYTES = 1 << 19
# what stands in a UID's place and is none may be anything: it is not passed on
VALID_UID = re.compile(r"^[0-9.]{1,64}$")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def source_parts(path: str) -> Tuple[Dict[str, str], bytes]:
    """What ties a result to its source: the UIDs, and the header that DICOM results take over.

    Both empty when they cannot be had: that costs an image its DICOM results, not its score.
    """
    import pydicom

    from pneumonia.runtime.results import header_bytes, source_header

    try:
        header = source_header(pydicom.dcmread(path, stop_before_pixels=True, force=True))
        data = header_bytes(header)
        uids = {name: first_text(header, name) for name in UIDS}
        uids = {name: uid for name, uid in uids.items() if VALID_UID.match(uid)}
    except Exception:  # parsers of foreign files raise anything
        return {}, b""
    return uids, data if len(data) <= MAX_HEADER_BYTES else b""


def answer(request: Dict[str, Any]) -> Tuple[Dict[str, Any], bytes]:
    """Handle one request: `path` and `limits` (fields of ReadLimits).

    Returns:
        The answer's record and the pixels, empty when there are none.
    """
    started = time.monotonic()
    record: Dict[str, Any] = {"status": "read"}
    pixels = b""
    try:
        radiograph = read_radiograph(request["path"], ReadLimits(**request["limits"]))
        record.update(
            height=radiograph.pixels.shape[0],
            width=radiograph.pixels.shape[1],
            info=radiograph.info,
            warnings=list(radiograph.warnings),
        )
        if radiograph.info["format"] == "dicom":
            uids, header = source_parts(request["path"])
            record.update(uids=uids, header=base64.b64encode(header).decode("ascii"))
        pixels = radiograph.pixels.tobytes()
    except DicomError as error:
        record.update(status=error.status, reason=error.reason, message=error.what)
    except MemoryError:
        record.update(status="rejected", reason="resource_limit", message="Not enough memory")
    record["payload"] = len(pixels)
    record["seconds"] = time.monotonic() - started
    return record, pixels


def main() -> None:
    """Serve requests until stdin ends."""
    channel = private_output()
    logging.disable(logging.CRITICAL)
    size = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from pneumonia.runtime.results import source_header  # noqa: F401 - loaded before it is timed

    write_answer(channel, {"status": "ready", "payload": 0, "seconds": 0.0}, b"")
    for line in sys.stdin:
        write_answer(channel, *answer(json.loads(line)))


if __name__ == "__main__":
    main()
