"""Files with which C projects find the generated library: for pkg-config and for CMake."""

from pathlib import Path

from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.templates import render
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.engines.kernel_library import ABI

BUILD_FILES = ("pneumonia_model.pc", "pneumonia_model-config.cmake")


def write_build_files(sources: Path, library: str, target: Target) -> None:
    """Write them beside the header; their paths are relative, so that the bundle can be moved.

    Args:
        sources: Folder of the C sources, beside which the library lies.
        library: File name of the library.
        target: What it was generated for.
    """
    for name in BUILD_FILES:
        text = render(
            f"{name}.j2",
            folder=sources.name,
            target=target.name,
            library_file=library,
            library_name=library.removeprefix("lib").removesuffix(".so"),
            abi=ABI,
        )
        write_bytes(str(sources / name), text.encode())
