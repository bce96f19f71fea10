"""`pneumonia profile`: energy and latency per image, measured on the board or predicted for it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import Number, collected, split_list
from pneumonia.cli.terminal import progress_bar, show_next, show_table

if TYPE_CHECKING:
    from deploy_jetson.device.profile.request import ProfileRequest


class MeasureByDefault(click.Group):
    """A group whose first argument may be a bundle: then the command is `measure`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `measure` before a first argument that is neither a subcommand nor `--help`."""
        known = (*self.commands, *ctx.help_option_names)
        if args and args[0] not in known:
            args = ["measure", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A subcommand; any other argument is a bundle to measure."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, "measure")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options of `measure` too: they may follow `pneumonia profile` itself."""
        records = [p.get_help_record(ctx) for p in self.commands["measure"].get_params(ctx)]
        with formatter.section("Options of `profile BUNDLE...`"):
            formatter.write_dl([record for record in records[:-1] if record is not None])
        super().format_options(ctx, formatter)


@click.group(cls=MeasureByDefault, no_args_is_help=True)
def command() -> None:
    """Measure energy and latency per image: pneumonia profile BUNDLE... --out DIR.

    Without a power sensor the figures are predicted for a Jetson TX2 and marked so.
    """


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    """`0,1,2` as numbers."""
    parts = split_list(context, parameter, value)
    if not all(part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} is not a list such as 0,1,2")
    return tuple(int(part) for part in parts)


@command.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="New folder for the results.")
@click.option(
    "--modes", callback=_numbers, metavar="0,1,...",
    help="nvpmodel modes; default: the current one (all five for a prediction).",
)  # fmt: skip
@click.option(
    "--engine", "engines", default="auto", show_default=True, callback=split_list,
    metavar="NAME,...",
    help="tensorrt, kernels, onnxruntime, reference or auto; several are measured in turn.",
)  # fmt: skip
@click.option(
    "--sensor", default="auto", show_default=True,
    help="auto, ina3221-iio, ina3221-hwmon, tegrastats, pi5-pmic, rapl, replay:FILE or model.",
)  # fmt: skip
@click.option("--windows", default=5, show_default=True, help="Measured windows.")
@click.option(
    "--window-s", type=Number(0), default=60.0, show_default=True, help="Shortest window, seconds."
)
@click.option(
    "--min-inferences", default=500, show_default=True, help="Fewest inferences in a window."
)
@click.option(
    "--idle-s", type=Number(0), default=30.0, show_default=True, help="Idle seconds at each end."
)
@click.option(
    "--rate-hz", type=Number(0), default=10.0, show_default=True, help="Samples per second."
)
@click.option(
    "--threads", type=click.IntRange(1, 64), help="Threads of the CPU engines; default: all cores."
)
@click.option("--calibration", type=click.Path(), help="calibration.json, for predictions.")
@click.option("--strict", is_flag=True, help="Fail (exit code 10) when any run is flagged.")
@collected("deploy_jetson.device.profile.recording:ProtocolSettings", "settings")
@collected("deploy_jetson.device.profile.request:ProfileRequest", "request")
def measure(request: "ProfileRequest", strict: bool) -> None:
    """Run the protocol: idle, warm-up, windows, whole images, idle again.

    Several bundles are stages of pruning. Writes energy.json, report.html and the raw samples.
    """
    from deploy_jetson.device.profile.summary import check_flags, headline
    from deploy_jetson.device.profile.sweep import profile

    with progress_bar("profile") as progress:
        document = profile(request, progress)
    title, header, rows, remarks = headline(document)
    show_table(title, header, rows)
    for remark in remarks:
        click.echo(remark, err=True)
    click.echo(f"written {Path(request.out) / 'report.html'}")
    show_next("pneumonia profile verify {}", request.out)
    if strict:
        check_flags(document)


@command.command()
@click.argument("run", metavar="DIR", type=click.Path())
def verify(run: str) -> None:
    """Compute every figure of a profile again from its raw samples; exit code 4 on a difference."""
    from deploy_jetson.device.profile.verify import verify as check

    count = check(run)
    click.echo(f"{count} run(s) agree with their raw samples")
    show_next("pneumonia profile compare {} OTHER", run)


@command.command()
@click.argument("first", metavar="DIR", type=click.Path())
@click.argument("second", metavar="OTHER", type=click.Path())
def compare(first: str, second: str) -> None:
    """Energy of one profile over that of another, run by run, with intervals."""
    from deploy_jetson.device.profile.verify import compare as compare_profiles

    rows = [
        (
            item.name,
            f"{item.ratio:.3f}",
            "too few windows" if item.low is None else f"{item.low:.3f} to {item.high:.3f}",
            item.verdict,
        )
        for item in compare_profiles(first, second)
    ]
    header = ("engine, mode", "ratio", "95 % interval", "verdict")
    show_table(f"gross energy per inference, {first} over {second}", header, rows)
    show_next("pneumonia profile verify {}", first)


@command.command()
@click.argument("runs", metavar="DIR...", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="calibration.json to write.")
def calibrate(runs: tuple[str, ...], out: str) -> None:
    """Fit the TX2 estimator to profiles measured on a TX2."""
    from deploy_jetson.device.profile.verify import calibrate as fit_runs
    from pneumonia.runtime.atomic import write_json

    found = fit_runs(list(runs))
    write_json(out, found.document())
    show_table(
        "measured over predicted",
        ("engine", "runs", "latency", "busy power", "idle power"),
        [
            (name, f.runs, f"{f.latency:.3f}", f"{f.busy:.3f}", f"{f.idle:.3f}")
            for name, f in found.engines.items()
        ],
    )
    show_next("pneumonia profile BUNDLE --out DIR --sensor model --calibration {}", out)
