"""A compressed network that finds nothing is warned of, with the reason."""

import pytest

from pneumonia.compression.run import lost_warning

FINDS = {"rsna": 0.2, "auroc": 0.8, "ap50": 0.3}
BLIND = {"rsna": 0.0, "auroc": 0.5, "ap50": 0.0}


@pytest.mark.parametrize("after", [BLIND, {"rsna": 0.0, "auroc": 0.9}, {"rsna": 0.1, "auroc": 0.5}])
def test_a_lossy_compression_is_warned_of(after: dict[str, float]) -> None:
    warning = lost_warning(FINDS, after)
    assert warning is not None
    assert warning.startswith("The compressed network finds nothing on the validation images")
    assert "before RSNA score 0.2000" in warning
    assert "a lower rate" in warning
    assert "\n" not in warning


def test_a_network_that_never_found_anything_is_to_be_trained() -> None:
    warning = lost_warning(BLIND, BLIND)
    assert warning is not None
    assert "as before it was compressed: train it further first" in warning


@pytest.mark.parametrize("after", [FINDS, {}, {"accuracy": 0.1}, {"rsna": 0.05, "auroc": 0.61}])
def test_a_network_that_finds_something_is_not_warned_of(after: dict[str, float]) -> None:
    assert lost_warning(FINDS, after) is None
