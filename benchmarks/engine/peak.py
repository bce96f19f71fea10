"""Peak multiply-add rate of one core: a C program that prints it in GFLOP/s."""

import subprocess
from pathlib import Path

from deploy_jetson.kernels.targets import Target

PEAK_SOURCE = r"""
#include <stdio.h>
#include <time.h>
typedef float v __attribute__((vector_size(4 * LANES)));
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}
int main(void) {
  double best = 0;
  for (int q = 0; q < 5; q++) {
    v a0 = {0}, a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, a8 = a0, a9 = a0;
    v b = a0 + 1e-9f, c = b;
    __asm__ volatile("" : "+x"(b), "+x"(c));
    const double start = now();
    for (long k = 0; k < 4000000; k++) {
      a0 += b * c; a1 += b * c; a2 += b * c; a3 += b * c; a4 += b * c;
      a5 += b * c; a6 += b * c; a7 += b * c; a8 += b * c; a9 += b * c;
      __asm__ volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4));
      __asm__ volatile("" : "+x"(a5), "+x"(a6), "+x"(a7), "+x"(a8), "+x"(a9));
    }
    const double rate = 4e6 * 10 * LANES * 2 / (now() - start) / 1e9;
    if (rate > best) best = rate;
  }
  printf("%f\n", best);
  return 0;
}
"""


def build_peak(work: Path, target: Target) -> None:
    """The program that measures one core's multiply-adds with the target's vectors."""
    (work / "peak.c").write_text(PEAK_SOURCE)
    subprocess.run(
        ["gcc", "-O3", *target.flags, "-ffp-contract=fast", f"-DLANES={target.lanes}", "peak.c",
         "-o", "peak"],
        cwd=work, check=True,
    )  # fmt: skip
