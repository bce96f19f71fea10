"""report.pdf: the report printed by an installed Chromium without network access."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumonia.runtime.atomic import write_bytes
from pneumonia.scoring.image.records import ImageRecord
from pneumonia.scoring.outputs.protocol import FinishedBatch, ScoredStudy, remove_file
from pneumonia.scoring.outputs.report import PAGE

PDF = "report.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BASE_SECONDS, SECONDS_PER_PICTURE = 120.0, 0.5
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-pdf-header-footer",
)


def find_browser() -> str | None:
    """Path of an installed Chromium or Chrome."""
    found = (shutil.which(name) for name in BROWSERS)
    return next((path for path in found if path), None)


def print_page(browser: str, page: Path, seconds: float) -> bytes | None:
    """A page as PDF, None when the browser fails or takes too long."""
    command = [browser, *FLAGS]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
    with tempfile.TemporaryDirectory(prefix="pneumonia-pdf-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / PDF
        command += [f"--user-data-dir={folder}/profile", f"--print-to-pdf={target}"]
        process = subprocess.Popen(
            [*command, page.resolve().as_uri()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
            data = target.read_bytes()
        except (subprocess.TimeoutExpired, OSError):
            return None
        finally:
            _end(process)
    return data if data.startswith(b"%PDF-") and process.returncode == 0 else None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the browser with its children, which share its session."""
    if process.poll() is None and hasattr(os, "killpg"):
        os.killpg(process.pid, 9)
    process.wait()


@dataclass(frozen=True)
class PdfWriter:
    """Prints report.html to report.pdf; must follow the report in the list of writers."""

    out: Path  # output folder of the batch
    name: str = "pdf"
    needs_header: bool = False

    def is_complete(self, record: ImageRecord) -> bool:
        """The PDF is made from the page, which is always written anew."""
        return True

    def files(self, study: ScoredStudy) -> dict[str, bytes]:
        """No files: the PDF covers the whole batch."""
        return {}

    def finish(self, batch: FinishedBatch) -> dict[str, Any]:
        """Print the page; without a browser, report that and remove the PDF of an earlier run."""
        target = self.out / PDF
        remove_file(target)
        browser = find_browser()
        if browser is None:
            return {"page": None, "reason": "no Chromium or Chrome found"}
        seconds = BASE_SECONDS + SECONDS_PER_PICTURE * len(batch.scored_keys())
        data = print_page(browser, self.out / PAGE, seconds)
        if data is None:
            return {"page": None, "reason": "the browser could not print the report"}
        write_bytes(str(target), data)
        return {"page": PDF}
