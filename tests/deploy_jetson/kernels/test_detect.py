"""`pneumonia_detect`: boxes from C are those of Python, on any image; and its errors.

Spans: deploy_jetson.kernels.bundle, deploy_jetson.kernels.generate, deploy_jetson.kernels.c.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.engines.kernels import KernelsEngine
from pneumonia.runtime.engines.processor import read_processor
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image.preprocess import letterbox
from pneumonia.runtime.model.layers import Conv, Linear
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.runtime.storage.bundle import load_bundle
from tests.deploy_jetson.kernels.programs import (
    CROSS_LIBC,
    QEMU,
    cross_build,
    emulated,
    qemu_command,
)
from tests.runtime.bundles import brightness_detector, varied_detector, write_bundle

EXAMPLES = Path(__file__).parents[3] / "examples" / "c"
TARGET = "x86-avx2"
pytestmark = pytest.mark.skipif(
    not shutil.which("gcc") or "avx2" not in read_processor().features, reason="needs gcc and AVX2"
)


class Box(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_float) for name in ("x1", "y1", "x2", "y2", "score")),
        ("class_index", ctypes.c_int32),
    ]


class CDetector:
    """The library as a C program uses it."""

    def __init__(self, library):
        self.path = library
        self.c = ctypes.CDLL(str(library))
        self.c.pn_create.restype = ctypes.c_void_p
        self.c.pn_destroy.argtypes = [ctypes.c_void_p]
        self.c.pn_set_threshold.argtypes = [ctypes.c_void_p, ctypes.c_float]
        self.c.pn_set_threads.argtypes = [ctypes.c_void_p, ctypes.c_int]
        for name in ("pn_operating_point_name", "pn_class_name", "pn_error_text"):
            getattr(self.c, name).restype = ctypes.c_char_p
        self.c.pn_operating_point_threshold.restype = ctypes.c_float
        self.c.pneumonia_detect.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_ssize_t,
            ctypes.c_void_p, ctypes.c_int32,
        ]  # fmt: skip
        self.model = self.c.pn_create()

    def detect(self, pixels, capacity=100):
        """(count, (n, 4) boxes, scores, classes) of an array whose rows may be strided."""
        boxes = (Box * capacity)()
        height, width = pixels.shape
        count = self.c.pneumonia_detect(
            self.model, pixels.ctypes.data, width, height, pixels.strides[0], boxes, capacity
        )
        shown = boxes[: min(max(count, 0), capacity)]
        corners = np.array([[b.x1, b.y1, b.x2, b.y2] for b in shown]).reshape(-1, 4)
        return count, corners, [b.score for b in shown], [b.class_index for b in shown]


@pytest.fixture(scope="module", params=["varied", "brightness"])
def both(request, tmp_path_factory):
    """(bundle's detector in Python on the library, the library in C)."""
    folder = tmp_path_factory.mktemp("detect") / "bundle"
    make = {"varied": varied_detector, "brightness": brightness_detector}[request.param]
    write_bundle(folder, *make(), threshold=0.3, onnx=False)
    library = add_kernels(folder, TARGET, measure=False).library
    bundle = load_bundle(str(folder))
    return Detector(bundle, KernelsEngine(bundle, str(library), 1)), CDetector(library)


def radiograph(height, width, seed=0):
    """Blobs and noise: smooth and sharp parts, so that resampling matters."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (max(1, height // 9), max(1, width // 7)), np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    noise = generator.integers(-40, 41, (height, width))
    return np.clip(smooth.astype(int) + noise, 0, 255).astype(np.uint8)


SIZES = [
    (64, 96), (64, 64), (96, 64), (640, 960), (1, 1), (1, 900), (700, 1), (2, 3), (63, 95),
    (65, 97), (33, 200), (200, 33), (1021, 733), (733, 1021), (128, 192), (30, 96), (64, 31),
    (500, 501), (299, 1000),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_boxes_are_those_of_python(both, size):
    python, c = both
    pixels = radiograph(*size)
    expected = python.predict(pixels, "image")
    assert c.c.pn_set_threshold(c.model, 0.0) == 0
    count, boxes, scores, _ = c.detect(pixels)
    assert count == len(expected.scores)
    np.testing.assert_allclose(boxes, expected.boxes, rtol=0, atol=0.01)
    np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [*SIZES, (64, 66000)], ids=lambda size: f"{size[1]}x{size[0]}")
def test_the_canvas_has_the_bytes_of_pillow(both, size):
    engine = both[0].engine
    pixels = radiograph(*size)
    target = engine.spec.input
    canvas, place = letterbox(pixels, target.height, target.width, target.pad_value)
    found, found_place = engine.letterbox(pixels)
    np.testing.assert_array_equal(found, canvas)
    assert found_place == place


def test_libraries_without_a_letterbox_and_strided_images_have_the_same_canvas(both, monkeypatch):
    engine = both[0].engine
    pixels = radiograph(301, 407)[::2, ::-1]
    found = engine.letterbox(pixels)[0]
    monkeypatch.setattr(KernelLibrary, "has_letterbox", False)
    np.testing.assert_array_equal(engine.letterbox(pixels)[0], found)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4)), np.zeros((0, 4), np.uint8), np.zeros(4, "u1")]
)
def test_other_arrays_have_no_canvas(both, pixels):
    for call in (both[0].engine.letterbox, both[0].detect, lambda x: both[0].predict(x, "x")):
        with pytest.raises(DataError, match="Not a grey 8-bit image"):
            call(pixels)


@pytest.mark.slow
def test_boxes_are_those_of_python_on_many_random_sizes(both):
    python, c = both
    size = python.bundle.spec.input
    c.c.pn_set_threshold(c.model, 0.0)
    generator = np.random.default_rng(1)
    for seed in range(200):
        height, width = generator.integers(1, 400, 2)
        pixels = radiograph(int(height), int(width), seed)
        canvas = letterbox(pixels, size.height, size.width, size.pad_value)[0]
        np.testing.assert_array_equal(python.engine.letterbox(pixels)[0], canvas)
        expected = python.predict(pixels, "image")
        count, boxes, scores, _ = c.detect(pixels)
        assert count == len(expected.scores), (height, width)
        np.testing.assert_allclose(boxes, expected.boxes, rtol=0, atol=0.01)
        np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=1e-6)


def test_threshold_of_the_first_operating_point_is_the_default(both):
    python, shared = both
    c = CDetector(shared.path)
    names = [c.c.pn_operating_point_name(i) for i in range(c.c.pn_operating_point_count())]
    assert names == [b"balanced", b"sensitive"]
    assert c.c.pn_operating_point_threshold(1) == pytest.approx(0.15)
    assert c.c.pn_operating_point_name(2) is None
    assert c.c.pn_operating_point_threshold(-1) == -1
    pixels = radiograph(200, 300)
    shown = python.detect(pixels)
    count, boxes, _, _ = c.detect(pixels)
    assert count == len(shown.boxes)
    np.testing.assert_allclose(boxes, shown.boxes, rtol=0, atol=0.01)
    assert c.c.pn_set_threshold(c.model, 1.0) == 0
    assert c.detect(pixels)[0] == 0  # an empty result is 0, not an error
    for threshold in (-0.1, 1.1, np.nan):
        assert b"threshold" in c.c.pn_error_text(c.c.pn_set_threshold(c.model, threshold))


def test_rows_may_have_any_stride_and_what_lies_between_is_not_read(both):
    _, c = both
    c.c.pn_set_threshold(c.model, 0.0)
    pixels = radiograph(90, 130)
    expected = c.detect(pixels)
    wide = np.random.default_rng(3).integers(0, 256, (90, 200), np.uint8)
    wide[:, 17:147] = pixels
    found = c.detect(wide[:, 17:147])
    assert found[0] == expected[0] > 0
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_small_capacity_gets_the_best_and_the_whole_count(both):
    _, c = both
    c.c.pn_set_threshold(c.model, 0.0)
    pixels = radiograph(160, 240)
    count, boxes, scores, _ = c.detect(pixels)
    assert count >= 3
    few, best, best_scores, _ = c.detect(pixels, capacity=2)
    assert few == count
    np.testing.assert_array_equal(best, boxes[:2])
    assert best_scores == scores[:2] == sorted(scores, reverse=True)[:2]
    height, width = pixels.shape
    only_counted = c.c.pneumonia_detect(c.model, pixels.ctypes.data, width, height, width, None, 0)
    assert only_counted == count


def test_threads_change_nothing(both):
    _, c = both
    c.c.pn_set_threshold(c.model, 0.0)
    pixels = radiograph(160, 240)
    one = c.detect(pixels)
    assert c.c.pn_set_threads(c.model, 2) == 0
    two = c.detect(pixels)
    assert c.c.pn_set_threads(c.model, 1) == 0
    np.testing.assert_array_equal(one[1], two[1])
    assert c.c.pn_set_threads(c.model, 0) == 2


def test_bad_arguments_are_a_status_and_touch_nothing(both):
    _, c = both
    pixels = radiograph(20, 30)
    data, boxes = pixels.ctypes.data, (Box * 1)()
    calls = [
        ((None, data, 30, 20, 30, boxes, 1), 5),
        ((c.model, None, 30, 20, 30, boxes, 1), 5),
        ((c.model, data, 30, 20, 30, None, 1), 5),
        ((c.model, data, 0, 20, 30, boxes, 1), 1),
        ((c.model, data, 30, -1, 30, boxes, 1), 1),
        ((c.model, data, 30, 20, 29, boxes, 1), 1),
        ((c.model, data, 30, 20, -30, boxes, 1), 1),
        ((c.model, data, 70000, 20, 70000, boxes, 1), 1),
        ((c.model, data, 30, 20, 30, boxes, -1), 1),
    ]
    for arguments, status in calls:
        assert c.c.pneumonia_detect(*arguments) == -status
        assert c.c.pn_error_text(-status) == c.c.pn_error_text(status) != b"unknown status"
    canvas = np.full((64, 96), 7, np.uint8)
    c.c.pn_letterbox.argtypes = [
        ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_ssize_t, ctypes.c_void_p,
    ]  # fmt: skip
    for (_, _, *size, _, _), status in calls[3:-1]:
        assert c.c.pn_letterbox(data, *size, canvas.ctypes.data) == status
    assert c.c.pn_letterbox(data, 30, 20, 30, None) == c.c.pn_letterbox(None, 30, 20, 30, data) == 5
    assert (canvas == 7).all()
    assert boxes[0].score == 0
    assert c.c.pn_error_text(-99) == b"unknown status"


def test_a_network_without_heads_is_not_a_detector(tmp_path):
    spec = NetworkSpec(
        "plain", InputSpec(1, 8, 8), (Conv("c", ("input",), 1, 4, 3, 1, 1),), ("c",), ()
    )
    tensors = {"c.weight": np.ones((4, 1, 3, 3), np.float32), "c.bias": np.zeros(4, np.float32)}
    generate_library(spec, tensors, TARGETS[TARGET], tmp_path / "lib.so")
    c = CDetector(tmp_path / "lib.so")
    assert c.detect(np.zeros((8, 8), np.uint8))[0] == -8
    assert c.c.pn_class_count() == 0
    c.c.pn_destroy(c.model)


def test_an_image_level_output_gates_the_scores(tmp_path):
    spec, tensors = brightness_detector()
    layers = (*spec.layers, Conv("map", ("input",), 1, 2, 64, 64), Linear("image", ("map",), 2, 1))
    spec = spec._replace(layers=layers, outputs=("boxes", "image"))
    tensors = {
        **tensors,
        "map.weight": np.full((2, 1, 64, 64), 1e-4, np.float32),
        "map.bias": np.zeros(2, np.float32),
        "image.weight": np.ones((1, 2), np.float32), "image.bias": np.array([-1], np.float32),
    }  # fmt: skip
    write_bundle(tmp_path / "bundle", spec, tensors, onnx=False)
    library = add_kernels(tmp_path / "bundle", TARGET, measure=False).library
    bundle = load_bundle(str(tmp_path / "bundle"))
    pixels = radiograph(64, 64)
    expected = Detector(bundle, KernelsEngine(bundle, str(library), 1)).predict(pixels, "image")
    c = CDetector(library)
    c.c.pn_set_threshold(c.model, 0.0)
    count, _, scores, _ = c.detect(pixels)
    assert count == len(expected.scores) > 0
    np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=1e-6)


def test_weights_that_overflow_are_an_error_not_boxes(tmp_path):
    spec, tensors = brightness_detector()
    tensors["head.weight"] = np.full_like(tensors["head.weight"], 3e38)
    generate_library(spec, tensors, TARGETS[TARGET], tmp_path / "lib.so")
    c = CDetector(tmp_path / "lib.so")
    assert c.detect(np.full((64, 64), 255, np.uint8))[0] == -7


# --- as C projects find and use it ------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "a bundle", *varied_detector(), threshold=0.1, onnx=False)


def lines_of(prediction, threshold):
    shown = prediction.scores >= np.float32(threshold)
    return np.concatenate([prediction.boxes[shown], prediction.scores[shown, None]], axis=1)


def check_program(command, folder, bundle, library):
    """Run score_pgm on an image with a comment in its header, and on what is not an image."""
    pixels = radiograph(150, 110)
    pgm = b"P5 # a comment\n# another\n110 150\n255\n" + pixels.tobytes()
    (folder / "image.pgm").write_bytes(pgm)
    done = subprocess.run(
        [*command, str(folder / "image.pgm")], capture_output=True, text=True, check=True
    )
    loaded = load_bundle(str(bundle))
    python = Detector(loaded, KernelsEngine(loaded, str(library), 1))
    expected = lines_of(python.predict(pixels, "image"), 0.1)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == len(expected) > 0
    np.testing.assert_allclose([[float(x) for x in row[:5]] for row in rows], expected, atol=0.01)
    assert {row[5] for row in rows} <= {"one", "two"}
    for content in (b"", b"P6 1 1 255\n123", pgm[:-1], b"P5 0 5 255\n", b"P5 70000 1 255\n"):
        (folder / "bad.pgm").write_bytes(content)
        bad = subprocess.run(
            [*command, str(folder / "bad.pgm")], capture_output=True, text=True, check=False
        )
        assert (bad.returncode, bad.stdout) == (2, "")
        assert "binary PGM" in bad.stderr


def test_pkg_config_finds_the_library_and_the_example_scores(bundle, tmp_path):
    if not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    result = add_kernels(bundle, TARGET, measure=False)
    moved = bundle.rename(tmp_path / "elsewhere")  # nothing knows the folder it was made in
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "pneumonia_model"], text=True, check=True,
        capture_output=True, env={"PKG_CONFIG_PATH": str(moved / result.sources.name)},
    ).stdout.split()  # fmt: skip
    program = tmp_path / "score_pgm"
    subprocess.run(
        ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", str(EXAMPLES / "score_pgm.c"),
         "-o", str(program), *flags],
        check=True,
    )  # fmt: skip
    check_program([str(program)], tmp_path, moved, moved / result.library.name)


def test_cmake_finds_the_library(bundle, tmp_path):
    if not shutil.which("cmake"):
        pytest.skip("needs cmake")
    result = add_kernels(bundle, TARGET, measure=False)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\nproject(example C)\n"
        f'find_package(pneumonia_model CONFIG REQUIRED PATHS "{result.sources}" NO_DEFAULT_PATH)\n'
        f"add_executable(score_pgm {EXAMPLES / 'score_pgm.c'})\n"
        "target_link_libraries(score_pgm PRIVATE pneumonia::model)\n"
    )
    for command in (["-S", ".", "-B", "build"], ["--build", "build"]):
        subprocess.run(["cmake", *command], cwd=tmp_path, check=True, capture_output=True)
    check_program([str(tmp_path / "build" / "score_pgm")], tmp_path, bundle, result.library)


def test_the_header_is_plain_c_and_c_plus_plus(tmp_path):
    header = Path(__file__).parents[3] / "deploy_jetson" / "kernels" / "c" / "pneumonia_model.h"
    for language, standard in (("c", "c99"), ("c++", "c++11")):
        subprocess.run(
            ["gcc", "-x", language, f"-std={standard}", "-pedantic-errors", "-Wall", "-Wextra",
             "-Werror", "-fsyntax-only", str(header)],
            check=True,
        )  # fmt: skip


@pytest.mark.slow
def test_sanitizers_are_silent(bundle, tmp_path):
    result = add_kernels(bundle, TARGET, measure=False)
    sources = sorted(result.sources.glob("*.c"))
    from deploy_jetson.kernels.compile.lower import lower
    from deploy_jetson.kernels.compile.source import write_plan
    from deploy_jetson.kernels.generate import model_chooser

    loaded = load_bundle(str(bundle))
    plan = lower(loaded.spec, loaded.weights(), TARGETS[TARGET], model_chooser(TARGETS[TARGET]))
    (result.sources / "weights.bin").write_bytes(write_plan(plan, "").weights)
    program = tmp_path / "program"
    subprocess.run(
        ["gcc", "-std=gnu11", "-O1", "-g", "-ffp-contract=fast", "-fno-sanitize-recover=all",
         "-fsanitize=address,undefined", *TARGETS[TARGET].flags, f"-I{result.sources}",
         str(EXAMPLES / "score_pgm.c"), *map(str, sources), "weights.S", "-lpthread",
         "-o", str(program)],
        cwd=result.sources, check=True,
    )  # fmt: skip
    check_program([str(program)], tmp_path, bundle, result.library)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("target", ["cortex-a57", "cortex-a76"])
def test_the_example_scores_on_arm(bundle, tmp_path, target):
    if not CROSS_LIBC.exists():
        pytest.skip("needs libc6-dev-arm64-cross")
    here = add_kernels(bundle, TARGET, measure=False).library
    result = add_kernels(bundle, target)
    program = tmp_path / "score_pgm"
    subprocess.run(
        [*cross_build(target), "-Wall", "-Werror", f"-I{result.sources}",
         str(EXAMPLES / "score_pgm.c"), "-o", str(program), str(result.library)],
        check=True,
    )  # fmt: skip
    command = [
        *qemu_command(target), "-L", str(CROSS_LIBC), "-E", f"LD_LIBRARY_PATH={bundle}",
        str(program),
    ]  # fmt: skip
    assert QEMU in command
    check_program(command, tmp_path, bundle, here)
