"""Which CPUs the threads of a generated library take: on made-up boards, and on this machine.

Spans: deploy_jetson.kernels.c.
"""

import os
import shutil
import subprocess

import pytest

from deploy_jetson.kernels.compile.source import RUNTIME
from pneumonia.runtime.cpus import usable_cpus

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
MAIN = r"""
#define _GNU_SOURCE
#include <sched.h>
static int fake_affinity(cpu_set_t *set);
#define sched_getaffinity(pid, size, set) fake_affinity(set)
#include "cores.c"
static int allowed[CPU_SETSIZE], n_allowed;
static int fake_affinity(cpu_set_t *set) {
  CPU_ZERO(set);
  for (int i = 0; i < n_allowed; i++) CPU_SET(allowed[i], set);
  return 0;
}
/* program THREADS CPU...; one line of CPUs; waits for a line before it ends */
int main(int argc, char **argv) {
  const int wanted = atoi(argv[1]);
  for (int i = 2; i < argc; i++) allowed[n_allowed++] = atoi(argv[i]);
  int cpus[64], claims[64];
  choose_cores(wanted, cpus, claims);
  for (int i = 0; i < wanted; i++) printf("%d ", cpus[i]);
  printf("\n");
  fflush(stdout);
  getchar();
  release_cores(claims, wanted);
  return 0;
}
"""
A57, DENVER = "0x41:0xd07", "0x4e:0x003"


class FakeBoard:
    """A program that chooses among the CPUs of a made-up /proc and /sys."""

    def __init__(self, folder, cores, parts="0x41:0xd07"):
        """`cores`: CPU -> (part, kHz, first hyper-thread of its core)."""
        root = folder / "root"
        lines = []
        for cpu, (part, speed, core) in cores.items():
            files = {"topology/thread_siblings_list": f"{core},{core + 1}\n"}
            if speed:
                files["cpufreq/cpuinfo_max_freq"] = f"{speed}\n"
            for name, text in files.items():
                path = root / f"sys/devices/system/cpu/cpu{cpu}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            lines.append(f"processor\t: {cpu}")
            if part:
                implementer, number = part.split(":")
                lines += [f"CPU implementer\t: {implementer}", f"CPU part\t: {number}", ""]
        (root / "proc").mkdir()
        (root / "proc/cpuinfo").write_text("\n".join(lines))
        (folder / "target.h").write_text(
            "typedef float real;\ntypedef int32_t whole;\n"
            f'#define LANES 4\n#define TARGET_NAME "x"\n#define TARGET_PARTS "{parts}"\n'
        )
        (folder / "main.c").write_text(MAIN)
        self.program = folder / "program"
        # names of its own for the claims, so that nothing else on this machine matters
        text = (RUNTIME / "cores.c").read_text()
        (folder / "cores.c").write_text(text.replace("pneumonia-cpu-", f"test-{os.getpid()}-cpu-"))
        subprocess.run(
            ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f'-DPN_ROOT="{root}"', "-I",
             str(folder), "-I", str(RUNTIME), "main.c", "-o", str(self.program)],
            cwd=folder, check=True,
        )  # fmt: skip
        self.cpus = list(cores)
        self.running = []

    def start(self, threads, cpus=None):
        """CPUs of an instance that keeps running."""
        process = subprocess.Popen(
            [self.program, str(threads), *map(str, cpus or self.cpus)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.running.append(process)
        return [int(word) for word in process.stdout.readline().split()]

    def stop(self, number=-1):
        """End an instance, the last one started by default."""
        self.running.pop(number).communicate("\n")


@pytest.fixture
def board(tmp_path):
    made = []

    def make(*arguments, **more):
        made.append(FakeBoard(tmp_path, *arguments, **more))
        return made[-1]

    yield make
    for one in made:
        while one.running:
            one.stop()


def tx2():
    return {cpu: (DENVER if cpu in (1, 2) else A57, 2035200, cpu) for cpu in range(6)}


def test_four_threads_of_a_tx2_are_four_a57(board):
    machine = board(tx2())
    assert machine.start(4) == [0, 3, 4, 5]
    machine.stop()
    assert machine.start(2) == [0, 3]
    machine.stop()
    assert sorted(machine.start(6)) == [0, 1, 2, 3, 4, 5]  # more than one kind has


def test_a_second_instance_takes_other_cores(board):
    machine = board(tx2())
    assert machine.start(2) == [0, 3]
    assert machine.start(2) == [4, 5]
    assert machine.start(2) == [1, 2]  # all A57 are taken, two Denver are free
    assert machine.start(2) == [0, 3]  # nothing is free: shared, of one kind
    machine.stop(0)
    assert machine.running[0].poll() is None


def test_cores_of_an_ended_process_are_free_again(board):
    machine = board(tx2())
    assert machine.start(3) == [0, 3, 4]
    machine.running[0].kill()
    machine.running.pop().communicate()
    assert machine.start(3) == [0, 3, 4]


def test_taskset_holds(board):
    machine = board(tx2())
    assert machine.start(2, cpus=[2, 4, 5]) == [4, 5]
    machine.stop()
    assert machine.start(2, cpus=[1, 2]) == [1, 2]
    machine.stop()
    assert machine.start(3, cpus=[3, 5]) == [3, 5, 3]  # more threads than CPUs


def test_the_fast_cores_of_a_big_little_machine(board):
    cores = {cpu: (None, 1800000 if cpu < 4 else 2400000, cpu) for cpu in range(6)}
    machine = board(cores, parts="")
    assert machine.start(2) == [4, 5]
    machine.stop()
    assert machine.start(4) == [0, 1, 2, 3]  # one kind, else all wait for the slowest anyway


def test_cores_that_differ_a_little_are_one_kind_and_hyper_threads_come_last(board):
    cores = {cpu: (None, 4500000 + 50000 * cpu, cpu - cpu % 2) for cpu in range(4)}
    machine = board(cores, parts="")
    assert machine.start(2) == [0, 2]
    assert machine.start(2) == [1, 3]


def test_a_machine_that_says_nothing(board):
    machine = board({cpu: (None, 0, cpu) for cpu in range(3)}, parts="")
    assert machine.start(2) == [0, 1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4), ({"cpu.max": "max 100000\n"}, 4), ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1), ({"cpu.max": "garbage"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)  # fmt: skip
def test_a_control_group_limits_the_threads(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cpus(str(tmp_path)) == expected
