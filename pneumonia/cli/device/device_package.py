"""`pneumonia device-package`: one archive that installs the daemon on a board."""

from pathlib import Path

import click

from deploy_jetson.package.boards import BOARD_HELP, DEFAULT_BOARD, find_board
from pneumonia.cli.options import PATH
from pneumonia.cli.terminal import show_next
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.text import counted


@click.command("device-package")
@click.argument("bundle", metavar="BUNDLE", type=PATH)
@click.option("--out", required=True, type=PATH, help="FILE.tar.gz to write.")
@click.option("--wheels", type=PATH, help="Folder of the pinned wheels; else fetched.")
@click.option("--board", default=DEFAULT_BOARD, show_default=True, help=BOARD_HELP + ".")
@click.option("--without-wheels", is_flag=True, help="The board has the Python packages already.")
@click.option("--without-kernels", is_flag=True, help="Do not generate C libraries.")
def command(
    bundle: Path,
    out: Path,
    wheels: Path | None,
    board: str,
    without_wheels: bool,
    without_kernels: bool,
) -> None:
    """Pack BUNDLE, the device's code, ARM kernels, wheels, unit and installer into one archive.

    Installing it needs no network. The same input gives the same bytes. Research use only.
    """
    from deploy_jetson.package.archive import make_package

    if wheels is not None and without_wheels:
        raise ConfigError("Options contradict each other", found="--wheels and --without-wheels")
    if wheels is not None and not wheels.is_dir():
        raise ConfigError("Folder of wheels does not exist", where=str(wheels))
    made = make_package(bundle, out, wheels, not without_wheels, not without_kernels, board)
    click.echo(
        f"{made.path}: {made.bytes:,} bytes, {counted(made.files, 'file')}, "
        f"{counted(made.wheels, 'wheel')}, "
        f"{'with' if made.has_kernels else 'without'} kernels for {find_board(board).cores}"
    )
    click.echo(f"sha256 {made.sha256}")
    show_next("tar xf {} && sudo ./pneumonia-device/install.sh  # on the board", made.path.name)
