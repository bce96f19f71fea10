"""Options of `pneumonia score` for images from a server, results to a PACS, and a cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.options import PATH
from pneumonia.cli.terminal import progress_bar
from pneumonia.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.scoring.batch.send import Destination, SendSummary
    from pneumonia.scoring.inputs import InputSource

PEER = "TITLE@HOST:PORT"
OPTIONS = (
    click.option(
        "--dicomweb", metavar="URL", help="Fetch images from this DICOMweb server instead of INPUT."
    ),
    click.option(
        "--pacs", metavar=PEER, help="Fetch images from this PACS (C-GET) instead of INPUT."
    ),
    click.option("--study", metavar="UID", multiple=True, help="Study Instance UIDs to fetch."),
    click.option(
        "--accession", metavar="NUMBER", multiple=True, help="Accession numbers to fetch."
    ),
    click.option("--date", metavar="YYYYMMDD[-YYYYMMDD]", default="", help="Study date or range."),
    click.option(
        "--no-refetch",
        is_flag=True,
        help="Do not fetch again what OUTPUT has a result of: changed pixels go unnoticed.",
    ),
    click.option("--aet", metavar="TITLE", help="AE title of this program.  [default: PNEUMONIA]"),
    click.option(
        "--move-port",
        type=click.IntRange(1, 65535),
        help="Receive images by C-MOVE on this port instead of C-GET.",
    ),
    click.option(
        "--ca-file",
        type=PATH,
        help="CA certificates for the DICOMweb server, instead of the system's.",
    ),
    click.option(
        "--client-cert",
        type=PATH,
        help="Certificate that identifies us to a DICOMweb server (PEM).",
    ),
    click.option(
        "--client-key", type=PATH, help="Its private key.  [default: in the file of --client-cert]"
    ),
    click.option(
        "--send",
        metavar=f"{PEER} | URL",
        help="Send the DICOM results to this PACS (C-STORE) or DICOMweb server (STOW-RS).",
    ),
    click.option(
        "--commit", is_flag=True, help="With --send: request storage commitment from the PACS."
    ),
    click.option(
        "--commit-port",
        type=click.IntRange(1, 65535),
        help="With --commit: port for the PACS's report.  [default: the same association]",
    ),
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Score on a Ray cluster: `auto`, HOST:PORT or ray://HOST:PORT.",
    ),
)


@dataclass(frozen=True)
class RemoteOptions:
    """Source of the images and destination of the results, from the options above."""

    dicomweb: str | None  # address of a DICOMweb server; None for none
    pacs: str | None  # PACS to fetch from, `TITLE@HOST:PORT`
    # study, accession, date: which studies; several of the first two
    study: tuple[str, ...]
    accession: tuple[str, ...]
    date: str
    no_refetch: bool  # keep results of an earlier run without fetching their images again
    aet: str | None  # our AE title; None for the default
    move_port: int | None  # port for C-MOVE; None for C-GET
    ca_file: Path | None  # certificates to trust
    # client_cert, client_key: certificate and key that identify us to a DICOMweb server
    client_cert: Path | None
    client_key: Path | None
    send: str | None  # PACS or DICOMweb server to send results to
    commit: bool  # ask for storage commitment
    commit_port: int | None  # port for its report
    ray: str | None  # address of a Ray cluster


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def paths_and_source(
    paths: tuple[Path, ...], options: RemoteOptions
) -> "tuple[Path | InputSource, Path]":
    """The input to score and the folder to write.

    Args:
        paths: INPUT OUTPUT, or OUTPUT alone when a server is asked.

    Raises:
        ConfigError: Options that do not go together, or a path too many or too few.
    """
    remote = [name for name in ("dicomweb", "pacs") if getattr(options, name)]
    wanted = ["OUTPUT"] if remote else ["INPUT", "OUTPUT"]
    if len(remote) == 2:
        raise ConfigError("Only one source of images is possible", found="--dicomweb and --pacs")
    if len(paths) != len(wanted):
        raise ConfigError(
            "Wrong number of paths", expected=" ".join(wanted), found=f"{len(paths)} of them"
        )
    _check_combination(options)
    if not remote:
        return paths[0], paths[1]
    return _server(options), paths[0]


def _check_combination(options: RemoteOptions) -> None:
    """Raise ConfigError for an option that another one would have to go with."""
    if not (options.dicomweb or options.pacs):
        _refuse(options, ("study", "accession", "date", "no_refetch"), "--dicomweb or --pacs")
    if not options.pacs:
        _refuse(options, ("move_port",), "--pacs")
    if not options.dicomweb and not _is_url(options.send):
        names = ("ca_file", "client_cert", "client_key")
        _refuse(options, names, "--dicomweb or --send URL")
    if not options.client_cert:
        _refuse(options, ("client_key",), "--client-cert")
    if not options.send or _is_url(options.send):
        _refuse(options, ("commit", "commit_port"), f"--send {PEER}")
        if not options.pacs:
            _refuse(options, ("aet",), f"--pacs or --send {PEER}")
    if not options.commit:
        _refuse(options, ("commit_port",), "--commit")


def _refuse(options: RemoteOptions, names: tuple[str, ...], needed: str) -> None:
    """Raise ConfigError for an option that would have no effect."""
    for name in names:
        if getattr(options, name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                "Option has no effect here", found=option, fix=f"It goes with {needed}"
            )


def _server(options: RemoteOptions) -> "InputSource":
    _require("pynetdicom" if options.pacs else "requests")
    from pneumonia.scoring.inputs.query import Query

    wanted = Query(options.study, options.accession, options.date)
    if options.pacs:
        from pneumonia.scoring.inputs.pacs import PacsInput
        from pneumonia.scoring.network.dicom_peer import parse_peer

        return PacsInput(parse_peer(options.pacs), wanted, _title(options), options.move_port)
    from pneumonia.scoring.inputs.dicomweb import DicomwebInput

    return DicomwebInput(options.dicomweb or "", wanted, *_tls_files(options))


def _tls_files(options: RemoteOptions) -> tuple[Path | None, Path | None, Path | None]:
    return options.ca_file, options.client_cert, options.client_key


def _require(package: str, extra: str = "pacs") -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"Package {package} is not installed", fix=f"pip install 'pneumonia[{extra}]'"
        )


def _title(options: RemoteOptions) -> str:
    from pneumonia.scoring.network.dicom_peer import OWN_TITLE, checked_title

    return checked_title(options.aet or OWN_TITLE)


def _is_url(text: str | None) -> bool:
    return text is not None and text.lower().startswith(("http://", "https://"))


def destination(options: RemoteOptions) -> "Destination | None":
    """Where to send results; checked before anything is scored."""
    if not options.send:
        return None
    _require("requests" if _is_url(options.send) else "pynetdicom")
    from pneumonia.scoring.batch.send import Destination
    from pneumonia.scoring.network.commitment import CommitmentSettings
    from pneumonia.scoring.network.dicom_peer import parse_peer
    from pneumonia.scoring.network.dicomweb_service import SEND, DicomwebService

    if _is_url(options.send):
        service = DicomwebService(options.send, *_tls_files(options))
        if options.dicomweb and DicomwebService(options.dicomweb).origin != service.origin:
            # the credentials of the server that images come from are not for another one
            service = DicomwebService(options.send, *_tls_files(options), SEND)
        return Destination(service)
    commitment = CommitmentSettings(options.commit_port) if options.commit else None
    return Destination(parse_peer(options.send), _title(options), commitment)


def send(out: Path, target: "Destination") -> "SendSummary":
    """Send the results of a folder, with a progress bar."""
    from pneumonia.scoring.batch.send import send_results

    with progress_bar("send") as progress:
        return send_results(out, target, progress)


def show_sent(summary: "SendSummary") -> None:
    """One line: results in the PACS by status."""
    counts = summary.counts.items()
    shown = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts if count)
    earlier = f", {summary.earlier} before" if summary.earlier else ""
    click.echo(f"{summary.destination}: {shown or 'nothing to send'}{earlier}")
