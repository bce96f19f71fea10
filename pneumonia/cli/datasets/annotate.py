"""`pneumonia annotate`: a local web application in which readers draw boxes and name findings."""

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.datasets.reports import load_vocabulary
from pneumonia.cli.options import FOLDER, PRESENT, PRESENT_FILE, Number, collected
from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next
from pneumonia.runtime.connections import address_text
from pneumonia.runtime.errors import DISCLAIMER, ConfigError
from pneumonia.runtime.text import counted

if TYPE_CHECKING:
    from data_prep.annotation.project import AnnotationProject, ProjectSources


@dataclass(frozen=True)
class ServerAddress:
    """Where the web application listens."""

    host: str  # name or address of an interface
    port: int  # TCP port; 0 for a free one
    tls_cert: Path | None  # certificate (PEM); None for plain HTTP on this machine
    tls_key: Path | None  # its private key (PEM)

    @property
    def secure(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_cert is not None


@click.command()
@click.argument("studies", type=FOLDER)
@click.option(
    "--work", default=Path("annotation"), show_default=True, type=FOLDER,
    help="Workspace: readings and exported datasets.",
)  # fmt: skip
@click.option(
    "--reports", type=PRESENT,
    help="Reports: csv, or a folder of .txt or OpenI .xml files.",
)  # fmt: skip
@click.option("--linker", type=FOLDER, help="Of `data train-linker`.  [default: vocabulary alone]")
@click.option("--concepts", type=PRESENT_FILE, help="Concept base.  [default: shipped one]")
@click.option(
    "--predictions", type=PRESENT_FILE, help="predictions.csv: a model's boxes as suggestions."
)
@click.option(
    "--min-score", default=0.2, show_default=True, type=Number(0, 1),
    help="Suggest no box below this score.",
)  # fmt: skip
@click.option(
    "--blind/--no-blind", default=None,
    help="Hide report and suggestions from a reader until the first verdict on a study. "
    "[default: as before; the manager's page can change it]",
)  # fmt: skip
@click.option(
    "--shuffle/--no-shuffle", default=None,
    help="Give each reader the studies in another order. [default: as before]",
)  # fmt: skip
@click.option(
    "--annotator", "annotators", multiple=True, metavar="NAME",
    help="Add an annotator with all studies; repeatable. The manager's page can do it too.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=8400, show_default=True, type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--tls-cert", type=PRESENT_FILE, help="Certificate (PEM); needed beyond this machine."
)
@click.option("--tls-key", type=PRESENT_FILE, help="Its private key (PEM).")
@collected("data_prep.annotation.project:ProjectSources", "sources")
@collected("pneumonia.cli.datasets.annotate:ServerAddress", "address")
def command(
    sources: "ProjectSources",
    address: ServerAddress,
    annotators: tuple[str, ...],
    linker: Path | None,
    concepts: Path | None,
) -> None:
    """Annotate the radiographs below STUDIES (DICOM, PNG, JPEG) in a web browser.

    Prints links with tokens for the manager and for new annotators. Only this machine is served
    unless --host names another address, which needs a certificate. Research use only.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigError(
            "The web application's packages are missing", fix='pip install "pneumonia[annotate]"'
        ) from None
    from data_prep.annotation.project import open_project
    from data_prep.annotation.workspace.database import workspace_lock
    from data_prep.annotation.workspace.records import checked_name

    annotators = tuple(checked_name(name) for name in annotators)  # before any folder is created
    _check(address)
    decide, base = load_vocabulary(linker, concepts)
    work = sources.work
    with workspace_lock(work), _listen(address) as listener:
        with progress_bar("read studies") as progress:
            project = open_project(sources, base, decide, progress=progress)
        scheme = "https" if address.secure else "http"
        shown = address_text(address.host, listener.getsockname()[1])
        _show(project, f"{scheme}://{shown}", annotators)
        _serve(project, listener, address)
    click.echo("stopped; everything is saved")
    if (work / "dataset").is_dir():
        show_next("pneumonia train --data {} --recipe rsna --out runs/annotated", work / "dataset")
    else:
        show_next("pneumonia annotate {} --work {}", sources.studies, work)


def _check(address: ServerAddress) -> None:
    """Refuse settings that would send tokens unencrypted, and certificates that cannot be used."""
    from data_prep.annotation.web.server import LOCAL_HOSTS

    cert, key = address.tls_cert, address.tls_key
    if (cert is None) != (key is None):
        raise ConfigError("A certificate and its key belong together")
    if address.host not in LOCAL_HOSTS and cert is None:
        raise ConfigError(
            "Tokens and radiographs would cross the network in the clear",
            expected="--tls-cert and --tls-key, or an address of this machine",
            found=repr(address.host),
            fix="Or reach it through ssh -L 8400:127.0.0.1:8400",
        )
    if cert is None or key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "Certificate and key cannot be used", expected="PEM files that belong together",
            found=type(error).__name__, where=str(cert),
        ) from None  # fmt: skip


def _listen(address: ServerAddress) -> socket.socket:
    host, port = address.host, address.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # a connection before the server runs waits instead of being refused
    except OSError as error:
        listener.close()
        raise ConfigError(
            "Cannot listen", found=error.strerror or str(error), where=address_text(host, port),
            fix="Choose another --port",
        ) from None  # fmt: skip
    return listener


def _show(project: "AnnotationProject", address: str, annotators: tuple[str, ...]) -> None:
    studies = project.store.studies()
    readable = [study.key for study in studies if not study.reason]
    click.echo(DISCLAIMER)
    unreadable = counted(len(studies) - len(readable), "file")
    click.echo(f"{counted(len(readable), 'study', 'studies')}, {unreadable} cannot be read")
    known = {person.name for person in project.people.annotators()}
    click.echo(f"manager: {address}/login#{project.people.manager_token()}")
    for name in dict.fromkeys(annotators):
        if name in known:
            click.echo(f"{name}: has a token already; the manager can give a new one")
            continue
        token = project.people.add(name)
        project.store.assign((key, name) for key in readable)
        click.echo(f"{name}: {address}/login#{token}")
    click.echo("stop with Ctrl-C")


def _serve(project: "AnnotationProject", listener: socket.socket, address: ServerAddress) -> None:
    import uvicorn

    from data_prep.annotation.web.server import LOCAL_HOSTS, TimedConnection, make_app

    log_to_stderr()
    app = make_app(project, {*LOCAL_HOSTS, address.host, socket.gethostname()}, address.secure)
    config = uvicorn.Config(
        app, http=TimedConnection, log_config=None, access_log=False, server_header=False,
        ws="none", proxy_headers=False, timeout_keep_alive=30, timeout_graceful_shutdown=5,
        ssl_certfile=address.tls_cert, ssl_keyfile=address.tls_key,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # the usual way to stop it
        uvicorn.Server(config).run(sockets=[listener])
