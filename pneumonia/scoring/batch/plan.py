"""`--dry-run`: what a batch would score, by names and headers alone. Nothing is written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pneumonia.runtime.child import DecodedFile, DecodingChild, Wanted
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.scoring.image.find import FoundFile, assign_names
from pneumonia.scoring.image.selection import SelectionRules, refusal, select_image
from pneumonia.scoring.inputs import InputSource
from pneumonia.scoring.inputs.files import FileInput
from pneumonia.scoring.settings import ScoreSettings

SCORE = "score"


class PlannedImage(NamedTuple):
    """One file and the status it would get."""

    relative: str  # path below the input
    status: str  # `score`, or the status it would end with
    reason: str  # why it would not be scored; empty for `score`


def plan_batch(
    source: Path | InputSource,
    out: Path,
    settings: ScoreSettings,
    progress: Progress | None = None,
) -> list[PlannedImage]:
    """Determine the status of every file of an input in a child process, without decoding pixels.

    Args:
        source: A file or folder, or another input; nothing is fetched from a server.
        out: Where the batch would write; only compared with the input.

    Raises:
        ConfigError: The input does not exist, or the output lies inside it.
        DataError: A server cannot be queried.
    """
    origin = FileInput(source) if isinstance(source, Path) else source
    origin.check(out)
    files = assign_names(origin.query(settings))
    plan = []
    rules = settings.rules
    wanted = Wanted(words_against=rules.words_against, words_wanted=rules.words_wanted)
    with DecodingChild(settings.limits, wanted) as worker:
        for number, file in enumerate(files, start=1):
            plan.append(_planned(file, worker, rules))
            report_progress(progress, number, len(files), plan[-1].status)
    return plan


def _planned(file: FoundFile, worker: DecodingChild, rules: SelectionRules) -> PlannedImage:
    if file.status:
        return PlannedImage(file.relative, file.status, file.reason)
    if not file.path:  # a server's: its header comes with the image
        return PlannedImage(file.relative, SCORE, "")
    return PlannedImage(file.relative, *_decided(worker.look(file.path, file.member), file, rules))


def _decided(looked: DecodedFile, file: FoundFile, rules: SelectionRules) -> tuple[str, str]:
    if looked.status != "read":
        return refusal(looked.status, looked.reason, looked.info, file.has_unscored_type, rules)
    selection = select_image(looked.info, (), rules)
    return selection.status or SCORE, selection.reason


def counts(plan: Sequence[PlannedImage]) -> list[tuple[str, int]]:
    """(status: reason, number of files) by descending number; `score` comes first."""
    found = Counter(f"{item.status}: {item.reason}".removesuffix(": ") for item in plan)
    score = [(SCORE, found.pop(SCORE, 0))]
    return score + sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
