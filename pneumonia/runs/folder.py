"""The run folder: file names, record, parents, checkpoints, and what may be written over it.

    RUN/run.json           the record: kind, status, seed, dataset, parent, versions
    RUN/config.yaml        the effective recipe
    RUN/metrics.csv        one row per epoch
    RUN/best/  RUN/last/   checkpoints: spec.json, weights.safetensors and what belongs to them
    RUN/stages/            parts of a compression, each with run folders of its own
    RUN/compression.json   what a compression did (`runs.compression`)

Every part of a compression is itself written as a run folder without a record.
"""

import datetime
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from pneumonia.recipes import RecipePart, validate
from pneumonia.runs.bundle_record import bundle_record
from pneumonia.runs.names import (
    BEST,
    CHECKPOINTS,
    CONFIG_FILE,
    LAST,
    METRICS_TABLE,
    RESIDUALS_TABLE,
    RUN_FILE,
    STAGES,
)
from pneumonia.runs.stored_recipe import recipe_text
from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.errors import ArtefactError, ConfigError, OutputError, PneumoniaError
from pneumonia.runtime.json_files import find_json_object, read_json_object
from pneumonia.runtime.model.spec import dense_weight_count
from pneumonia.runtime.model.spec_json import parse_spec
from pneumonia.runtime.output_folders import require_own_or_empty
from pneumonia.runtime.storage.bundle import MANIFEST, SPEC

SCHEMA = "pneumonia.run/1"
PACKAGES = ("pneumonia", "torch", "numpy", "albumentations", "pillow")
MAX_PARENTS = 50

Recipe = TypeVar("Recipe", bound=RecipePart)


class RunFolder:
    """A run folder, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / BEST
        self.last = path / LAST
        self.stages = path / STAGES
        self.record_file = path / RUN_FILE
        self.config_file = path / CONFIG_FILE
        self.metrics_table = path / METRICS_TABLE
        self.residuals_table = path / RESIDUALS_TABLE

    def checkpoint(self, which: str | None = None) -> Path:
        """The folder that holds the model.

        Args:
            which: `best` or `last`; None takes the best one, else the last.

        Returns:
            The checkpoint, or this folder if it holds a model itself (a checkpoint, a bundle).

        Raises:
            ArtefactError: No such folder, a folder without a model, or not the checkpoint asked
                for.
        """
        if not self.path.is_dir():
            raise ArtefactError(
                "No such folder", found=repr(str(self.path)), fix="Give a run or a bundle"
            )
        if (self.path / SPEC).is_file():
            return self.path
        wanted = (which,) if which else CHECKPOINTS
        for name in wanted:
            if (self.path / name / SPEC).is_file():
                return self.path / name
        is_run = self.is_run()
        raise ArtefactError(
            "Run has no checkpoint yet" if is_run else "Folder is neither a run nor a bundle",
            expected=" or ".join(f"{name}/{SPEC}" for name in wanted),
            where=str(self.path),
            fix="Train it first" if is_run else None,
        )

    def is_run(self) -> bool:
        """Whether run.json is that of a training or compression; `score` writes another one."""
        # a damaged one counts: what reads it raises the error
        record = find_json_object(str(self.record_file))
        return self.record_file.exists() and record.get("schema", SCHEMA) == SCHEMA

    def is_bundle(self) -> bool:
        """Whether the folder is an exported bundle, not a run."""
        return (self.path / MANIFEST).is_file() and not self.record_file.exists()

    def record(self) -> dict[str, Any]:
        """The content of run.json; of a bundle, what its manifest says of the run.

        Raises:
            ArtefactError: Missing or damaged.
        """
        if self.is_bundle():
            return bundle_record(self.path)
        return read_json_object(
            str(self.record_file),
            "Run record",
            fix="Give the folder that `train`, `prune`, `quantize` or `export` wrote",
        )

    def parent(self) -> "RunFolder | None":
        """The run this one was made from; None without one, or when its folder is gone."""
        parent = self.record().get("parent")
        if not isinstance(parent, str):
            return None
        run = RunFolder(Path(parent))
        return run if run.record_file.is_file() or run.is_bundle() else None

    def lineage(self) -> list["RunFolder"]:
        """This run and its ancestors, as far as their folders exist."""
        chain: list[RunFolder] = [self]
        while len(chain) < MAX_PARENTS:
            parent = chain[-1].parent()
            if parent is None:
                break
            chain.append(parent)
        return chain

    def training_recipe(self, model: type[Recipe]) -> Recipe:
        """The recipe of the training that this run descends from.

        Compression runs store it in their record, so that their parents may be moved or deleted.

        Raises:
            ArtefactError: No training among the ancestors.
            ConfigError: The recipe is not valid any more.
        """
        for run in self.lineage():
            record = run.record()
            if isinstance(record.get("training"), dict):
                return validate(record["training"], model, str(run.record_file))
            if record.get("kind") == "train":
                return validate(run.config(), model, str(run.config_file))
        raise ArtefactError("Run descends from no training", where=str(self.path))

    def config(self) -> dict[str, Any]:
        """The content of config.yaml.

        Raises:
            ArtefactError: Missing, not YAML, or not a mapping.
        """
        try:
            values = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ArtefactError(
                "Recipe of the run cannot be read", found=str(error), where=str(self.config_file)
            ) from None
        if not isinstance(values, dict):
            raise ArtefactError(
                "Recipe of the run is damaged", expected="a mapping", where=str(self.config_file)
            )
        return values

    def trained_weights(self) -> int | None:
        """Weights of the network that was trained, before any compression; None if unknown.

        The rate of a compression run is over its parent's weights; the rate of a whole ladder is
        over these. Compression runs store the number in their record.

        Raises:
            ArtefactError: The trained run is damaged.
        """
        for run in self.lineage():
            record = run.record()
            if isinstance(record.get("trained_weights"), int):
                return int(record["trained_weights"])
            if record.get("kind") == "train":
                text = (run.checkpoint() / SPEC).read_text(encoding="utf-8")
                return dense_weight_count(parse_spec(text))
        return None

    def trained_run(self) -> "RunFolder":
        """The run of kind `train` that this run descends from.

        Raises:
            ArtefactError: Its folder does not exist any more, or nothing was trained.
        """
        for run in self.lineage():
            if run.record().get("kind") == "train":
                return run
        raise ArtefactError(
            "The trained run does not exist any more",
            expected="a run of `train` among the parents",
            where=str(self.path),
            fix="Restore its folder, or name a teacher: `teacher: parent`, or a run or bundle",
        )

    def dataset_path(self) -> Path:
        """The dataset folder that this run or one of its ancestors was made with.

        Raises:
            ConfigError: None is recorded, or it does not exist any more.
        """
        named = []
        for run in self.lineage():
            dataset = run.record().get("dataset")
            if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
                named.append(dataset["path"])
                if Path(named[-1]).is_dir():
                    return Path(named[-1])
        raise ConfigError(
            "Dataset of the run does not exist",
            expected="a folder",
            found=repr(named[0]) if named else "none recorded (a bundle has none)",
            where=str(self.path),
            fix="Give a dataset folder",
        )

    def refuse_overwrite(self) -> None:
        """Refuse to write into a folder that holds a run.

        Raises:
            OutputError: A checkpoint or a stage exists.
        """
        if self.best.exists() or self.last.exists() or self.stages.exists():
            raise OutputError(
                "Run folder holds a run already",
                where=str(self.path),
                fix="Resume it or choose another folder",
            )

    def refuse_other_files(self) -> None:
        """Refuse to begin a run in a folder that holds other files than a run's.

        Raises:
            OutputError: There are files, but neither config.yaml nor the run.json of a run.
        """
        if not self.config_file.exists() and not self.is_run():
            require_own_or_empty(str(self.path), "a run")

    def refuse_inside(self, dataset: Path) -> None:
        """Refuse to write a run into a dataset folder or below it.

        Raises:
            OutputError: The run folder is the dataset's, or lies in it.
        """
        here, data = self.path.resolve(), dataset.resolve()
        if here == data or data in here.parents:
            raise OutputError(
                "Run folder lies in the dataset",
                expected="a folder outside " + str(dataset),
                found=str(self.path),
                fix="Choose another folder",
            )

    def resumed_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record of a resumed run.

        Args:
            record: What would be recorded now; see `new_record`.

        Returns:
            The same with the time at which the run was first started.

        Raises:
            ArtefactError: The recorded run is of another kind, parent or dataset, or its record
                is damaged.
        """
        before = self.record()
        for key in ("kind", "parent", "dataset"):
            if _identity(before, key) != _identity(record, key):
                raise ArtefactError(
                    f"Run to resume has another {key}",
                    expected=_shown(before, key),
                    found=_shown(record, key),
                    where=str(self.record_file),
                )
        return {**record, "started": before.get("started", record["started"])}

    @contextmanager
    def recorded(
        self, record: dict[str, Any], recipe: BaseModel, writes: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Keep config.yaml and the status in run.json up to date during a run.

        The status is `running`, then `done`, `interrupted` (Ctrl-C, SIGTERM) or `failed` with the
        error.

        Args:
            record: See `new_record`.
            writes: False in all processes of a distributed run but the first.

        Yields:
            A dict; what is put into it is added to the record of a finished run.
        """
        added: dict[str, Any] = {}

        def write(**more: Any) -> None:
            if writes:
                write_json(str(self.record_file), {**record, **more})

        if writes:
            write_text(str(self.config_file), recipe_text(recipe))
        write(status="running")
        try:
            yield added
        except KeyboardInterrupt:
            write(status="interrupted")
            raise
        except PneumoniaError as error:
            write(status="failed", error=str(error))
            raise
        except Exception as error:
            # the text of a foreign exception may quote a file's contents
            write(status="failed", error=f"internal error ({type(error).__name__})")
            raise
        write(status="done", **added)


def new_record(
    kind: str, seed: int, dataset: Mapping[str, Any], parent: str | None, **more: Any
) -> dict[str, Any]:
    """The record of a run that starts now.

    Args:
        kind: `train`, `prune` or `quantize`.
        dataset: `Dataset.reference()`: path and fingerprint.
        parent: Run or model folder that the run starts from.
        more: Further entries.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "schema": SCHEMA,
        "kind": kind,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "dataset": dict(dataset),
        "parent": parent,
        "versions": versions,
        **more,
    }


def _identity(record: Mapping[str, Any], key: str) -> Any:
    """The entry of a record in a form that can be compared: fingerprint, resolved path."""
    value = record.get(key)
    if key == "dataset" and isinstance(value, dict):
        return value.get("fingerprint")
    return Path(value).resolve() if key == "parent" and isinstance(value, str) else value


def _shown(record: Mapping[str, Any], key: str) -> str:
    if key == "dataset":
        return f"fingerprint {str(_identity(record, key))[:12]}"
    return repr(record.get(key))[:120]
