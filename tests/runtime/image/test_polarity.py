import numpy as np
import pytest
from PIL import Image

from pneumonia.runtime.image.polarity import looks_inverted, polarity_score
from pneumonia.runtime.image.radiograph import read_radiograph


def chest(height: int = 320, width: int = 256) -> np.ndarray:
    """Bright mediastinum and abdomen, two dark lungs, dark air beside the neck."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    grey = np.full((height, width), 150.0)
    for centre in (0.3, 0.7):
        grey[((x - centre) / 0.15) ** 2 + ((y - 0.45) / 0.3) ** 2 < 1] = 50
    grey[(y < 0.2) & (abs(x - 0.5) > 0.2)] = 10
    grey[(abs(x - 0.5) < 0.08) | (y > 0.8)] = 210
    return grey.astype(np.uint8)


def test_a_negative_has_the_negative_score():
    pixels = chest()
    assert polarity_score(pixels) > 2
    assert polarity_score(255 - pixels) == pytest.approx(-polarity_score(pixels), abs=0.1)
    assert looks_inverted(255 - pixels)
    assert not looks_inverted(pixels)


@pytest.mark.parametrize(
    "change", [lambda p: p // 3, lambda p: p // 2 + 100, lambda p: p[::2, ::2]]
)
def test_brightness_contrast_and_size_do_not_matter(change):
    assert polarity_score(change(chest())) == pytest.approx(polarity_score(chest()), abs=0.3)


def test_a_blank_image_is_not_called_inverted():
    assert polarity_score(np.full((64, 64), 7, np.uint8)) == 0


def test_the_reader_of_a_file_warns(tmp_path):
    Image.fromarray(chest()).save(tmp_path / "chest.png")
    Image.fromarray(255 - chest()).save(tmp_path / "negative.png")
    assert "looks_inverted" not in read_radiograph(str(tmp_path / "chest.png")).warnings
    assert "looks_inverted" in read_radiograph(str(tmp_path / "negative.png")).warnings
