"""Where a run comes from: its training recipe and its dataset, through a chain of parents."""

import json
from pathlib import Path
from typing import Any

import yaml

from pneumonia.network.files import checkpoint_folder, read_spec
from pneumonia.recipes import validate
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.spec import dense_weight_count
from pneumonia.training.config import TrainRecipe

RUN_FILE, CONFIG_FILE = "run.json", "config.yaml"
MAX_PARENTS = 50


def run_record(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder.

    Raises:
        ArtefactError: Missing or damaged.
    """
    path = folder / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(
            "Run record cannot be read",
            found=getattr(error, "strerror", None) or str(error),
            where=str(path),
            fix="Give the folder that `train` or `prune` wrote",
        ) from None
    if not isinstance(record, dict):
        raise ArtefactError("Run record is damaged", expected="a JSON object", where=str(path))
    return record


def _ancestors(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The run and its parents, as far as their folders are there."""
    chain = [(run, run_record(run))]
    while len(chain) < MAX_PARENTS:
        parent = chain[-1][1].get("parent")
        if not isinstance(parent, str) or not (Path(parent) / RUN_FILE).is_file():
            break
        chain.append((Path(parent), run_record(Path(parent))))
    return chain


def training_recipe(run: Path) -> TrainRecipe:
    """The recipe of the training that a run descends from.

    Runs of compression carry it in their record, so that their parents may be moved or deleted.

    Raises:
        ArtefactError: No training among the ancestors.
        ConfigError: The recipe is not valid any more.
    """
    for folder, record in _ancestors(run):
        if isinstance(record.get("training"), dict):
            return validate(record["training"], TrainRecipe, str(folder / RUN_FILE))
        if record.get("kind") == "train":
            path = folder / CONFIG_FILE
            try:
                values = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise ArtefactError(
                    "Recipe of the run cannot be read", found=str(error), where=str(path)
                ) from None
            return validate(values, TrainRecipe, str(path))
    raise ArtefactError("Run descends from no training", where=str(run))


def trained_weights(run: Path) -> int | None:
    """Weights of the network that was trained before anything was compressed.

    Rates of a ladder's steps are over the step before; this is what the whole way is measured by.
    Runs of compression carry it in their record. None when no ancestor says.

    Raises:
        ArtefactError: The trained run is damaged.
    """
    for folder, record in _ancestors(run):
        if isinstance(record.get("trained_weights"), int):
            return int(record["trained_weights"])
        if record.get("kind") == "train":
            return dense_weight_count(read_spec(checkpoint_folder(folder)))
    return None


def trained_run(run: Path) -> Path:
    """The run that trained the network a run descends from: of kind `train`, nothing compressed.

    Raises:
        ArtefactError: Its folder is not there any more, or nothing was trained.
    """
    for folder, record in _ancestors(run):
        if record.get("kind") == "train":
            return folder
    raise ArtefactError(
        "The trained run is not there",
        expected="a run of `train` among the parents",
        where=str(run / RUN_FILE),
        fix="Bring its folder back, or learn from the run itself (teacher: parent)",
    )


def dataset_path(run: Path) -> Path:
    """The dataset folder a run or one of its ancestors was made with.

    Raises:
        ConfigError: None is recorded, or it is not there any more.
    """
    named = []
    for _, record in _ancestors(run):
        dataset = record.get("dataset")
        if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
            named.append(dataset["path"])
            if Path(named[-1]).is_dir():
                return Path(named[-1])
    raise ConfigError(
        "Dataset of the run is not there",
        expected="a folder",
        found=repr(named[0]) if named else "no dataset in the run's record",
        where=str(run / RUN_FILE),
        fix="Name it with --data",
    )
