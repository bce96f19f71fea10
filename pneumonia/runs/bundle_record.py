"""The run record of an exported bundle, so that a bundle can be trained on like a run."""

from pathlib import Path
from typing import Any

import yaml

from pneumonia.recipes import recipe_path
from pneumonia.runtime.storage.bundle import load_bundle

# Training recipe of bundles whose manifest holds none.
DEFAULT_TRAINING = "rsna"


def bundle_record(folder: Path) -> dict[str, Any]:
    """What the manifest of a bundle says of the run that it was exported from.

    Returns:
        As run.json: kind, seed, dataset (without a path), trained_weights, training.

    Raises:
        ArtefactError: The bundle is damaged.
    """
    manifest_run = load_bundle(str(folder)).manifest.get("run")
    run: dict[str, Any] = manifest_run if isinstance(manifest_run, dict) else {}
    training = run.get("training")
    if not isinstance(training, dict):
        text = recipe_path(DEFAULT_TRAINING, "train").read_text(encoding="utf-8")
        training = yaml.safe_load(text)
    record = {key: run.get(key) for key in ("kind", "seed", "trained_weights")}
    fingerprint = run.get("dataset_fingerprint")
    return {**record, "dataset": {"fingerprint": fingerprint}, "training": training}
