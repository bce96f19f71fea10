"""Write a run as a model bundle and compile its network for this machine.

python examples/export_and_compile.py RUN BUNDLE [TARGET]
"""

import sys

import numpy as np

import pneumonia


def main(run: str, bundle: str, target: str = "native") -> None:
    """Export, compile without tuning, and run the compiled network once."""
    exported = pneumonia.export(run, bundle, pneumonia.ExportOptions(weights="fp32"))
    print(f"model {exported.model_hash[:12]}, {sum(exported.sizes.values()):,} bytes")
    kernels = pneumonia.compile_kernels(bundle, target, tune=False)
    print(f"{kernels.library.name} in {kernels.seconds:.0f} s")
    detector = pneumonia.Detector.load(bundle, engine="kernels")
    print(detector.detect(np.eye(64, dtype=np.uint8) * 255).flag)


if __name__ == "__main__":
    main(*sys.argv[1:])
