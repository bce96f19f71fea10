"""Read a DICOM, PNG or JPEG radiograph as 8-bit grey pixels.

python examples/read_radiograph.py radiograph.dcm
"""

import sys

import pneumonia


def main(path: str) -> None:
    """Print size, grey levels, format, view and warnings of a file."""
    try:
        radiograph = pneumonia.read_radiograph(path)
    except pneumonia.PneumoniaError as error:
        print("not read:", error)
        return
    pixels = radiograph.pixels  # uint8 (H, W), dense tissue bright
    print(pixels.shape, pixels.dtype, "grey", pixels.min(), "to", pixels.max())
    print(radiograph.info["format"], radiograph.info["view"], *radiograph.warnings)


if __name__ == "__main__":
    main(*sys.argv[1:])
