"""What sampling nine INA3221 rails costs: share of one processor, at several rates.

    python -m benchmarks.device.profiler_cost [--seconds 20]

The rails are files of a made-up TX2 (both reads and their parsing are real, the chip's conversion
over I2C is not): a board's own cost is in every energy.json as `sampler_cpu_share`. Writes
benchmarks/results/profiler_cost.json.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

from deploy_jetson.device.power.clock import Clock
from deploy_jetson.device.power.find import open_sensor
from deploy_jetson.device.power.sampler import ThreadSampler
from tests.deploy_jetson.device.trees import iio_tree

RESULTS = Path(__file__).parents[1] / "results"
RATES_HZ = (10.0, 50.0, 100.0)


def share(root: Path, rate_hz: float, seconds: float) -> dict[str, float]:
    clock = Clock()
    sensor = open_sensor("ina3221-iio", clock, 1 / rate_hz, str(root))
    assert sensor is not None
    sampler = ThreadSampler(sensor, clock, 1 / rate_hz)
    sampler.start()
    time.sleep(seconds)
    samples = sampler.stop()
    assert samples.cpu_share is not None
    return {
        "rate_hz": rate_hz,
        "taken_hz": round(
            (len(samples.stamps_s) - 1) / float(samples.stamps_s[-1] - samples.stamps_s[0]), 2
        ),
        "rails": len(samples.values),
        "cpu_percent": round(100 * samples.cpu_share, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        iio_tree(Path(name))
        rows = [share(Path(name), rate, options.seconds) for rate in RATES_HZ]
    result = {
        "rows": rows,
        "goal": "< 1 % of a processor at 10 Hz",
        "where": "this machine with a made-up board; not a TX2",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "profiler_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
