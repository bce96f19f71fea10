"""`pneumonia daemon`: radiographs that arrive by DICOM, folder or HTTP, answered one by one."""

from pathlib import Path

import click

from pneumonia.cli.options import PATH
from pneumonia.runtime.errors import DISCLAIMER


@click.command(epilog=DISCLAIMER)
@click.option(
    "--config",
    "path",
    required=True,
    type=PATH,
    help="Configuration file (INI); docs/reference/daemon-config.md explains it.",
)
@click.option(
    "--check", is_flag=True, help="Only check the configuration and the files that it names."
)
def command(path: Path, check: bool) -> None:
    """Score radiographs as they arrive, until SIGTERM; nothing acknowledged is lost.

    On a board without this command: python3 -m deploy_jetson.device.daemon --config FILE.
    """
    from deploy_jetson.device.daemon.config import check_config, load_config

    if check:
        check_config(str(path))
        click.echo(f"{path}: valid")
        return
    from deploy_jetson.device.daemon.service import serve

    serve(load_config(str(path)))
