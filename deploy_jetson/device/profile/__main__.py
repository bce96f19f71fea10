"""`python3 -m deploy_jetson.device.profile`: the profiler on the board, without our command line.

The same options as `pneumonia profile`, from the standard library only.
"""

import argparse
import os
import sys
from typing import List, Optional, Sequence

from deploy_jetson.device.exit_codes import exit_code
from deploy_jetson.device.profile.recording import ProtocolSettings
from deploy_jetson.device.profile.request import ProfileRequest
from deploy_jetson.device.profile.summary import check_flags, headline
from deploy_jetson.device.profile.sweep import profile
from deploy_jetson.device.profile.verify import verify
from deploy_jetson.device.utf8 import run_command
from pneumonia.runtime.errors import DISCLAIMER

VERIFY = "verify"


def _numbers(text: str) -> List[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(
            "expected numbers with commas, found {!r}".format(text)
        ) from None


def _names(text: str) -> List[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parser() -> argparse.ArgumentParser:
    """The options."""
    defaults = ProtocolSettings()
    made = argparse.ArgumentParser(
        prog="pneumonia-device profile",
        description="Measure energy and latency per image. `verify DIR` checks a profile.",
        epilog=DISCLAIMER,
    )
    add = made.add_argument
    add("bundles", metavar="BUNDLE", nargs="+", help="Model bundles; several are stages of pruning")
    add("--out", required=True, help="New folder for the results")
    add("--modes", type=_numbers, default=[], metavar="0,1,...", help="nvpmodel modes")
    add("--engine", type=_names, default=["auto"], metavar="NAME,...", help="Engines, in turn")
    add("--sensor", default="auto", help="auto, a sensor's name, replay:FILE or model")
    add("--windows", type=int, default=defaults.windows, help="Measured windows")
    add("--window-s", type=float, default=defaults.window_s, help="Least seconds of a window")
    add("--min-inferences", type=int, default=defaults.min_inferences, help="Least per window")
    add("--idle-s", type=float, default=defaults.idle_s, help="Idle seconds before and after")
    add("--rate-hz", type=float, default=defaults.rate_hz, help="Samples per second")
    add("--threads", type=int, help="Of the CPU engines")
    add("--calibration", help="calibration.json, for predictions")
    add("--strict", action="store_true", help="Fail (exit code 10) when any run is flagged")
    return made


def _print_progress(done: int, total: int, note: str) -> None:
    sys.stderr.write("{}{}: {}\n".format(done, "/{}".format(total) if total else "", note))


def _measure(arguments: Sequence[str]) -> None:
    options = parser().parse_args(list(arguments))
    settings = ProtocolSettings(
        windows=options.windows,
        window_s=options.window_s,
        min_inferences=options.min_inferences,
        idle_s=options.idle_s,
        rate_hz=options.rate_hz,
    )
    request = ProfileRequest(
        tuple(options.bundles),
        options.out,
        tuple(options.modes),
        tuple(options.engine),
        options.sensor,
        settings,
        options.calibration,
        options.threads,
    )
    document = profile(request, _print_progress)
    title, header, rows, remarks = headline(document)
    lines = [title] + ["  ".join(cells) for cells in [header] + rows] + remarks
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.write("written {}\n".format(os.path.join(options.out, "report.html")))
    if options.strict:
        check_flags(document)


def _verify(arguments: Sequence[str]) -> None:
    made = argparse.ArgumentParser(
        prog="pneumonia-device profile verify",
        description="Compute every figure of a profile again from its raw samples.",
        epilog=DISCLAIMER,
    )
    made.add_argument("folder", metavar="DIR", help="Folder with energy.json")
    folder = made.parse_args(list(arguments)).folder
    sys.stdout.write("{} run(s) agree with their raw samples\n".format(verify(folder)))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> None:
        if given[:1] == [VERIFY]:
            _verify(given[1:])
        else:
            _measure(given)

    return exit_code(work)


if __name__ == "__main__":
    run_command("deploy_jetson.device.profile", main)
