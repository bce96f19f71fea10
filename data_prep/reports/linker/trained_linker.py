"""A trained linker: concept base, priors, vectors and a DCA model; a folder without pickles."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError

from data_prep.reports.findings.concepts import NIL, NORMAL, ConceptBase, build_base, read_json
from data_prep.reports.findings.linking import LinkDecision, finder_of
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.findings.text import Sentence
from data_prep.reports.linker.batches import EntityTable, arrange, collate
from data_prep.reports.linker.candidates import (
    AliasPriors,
    CandidateGenerator,
    best_gold,
    learn_priors,
)
from data_prep.reports.linker.dca import DynamicContext
from data_prep.reports.linker.documents import LinkDocument
from data_prep.reports.linker.local_models import LOCAL_MODELS
from data_prep.reports.linker.measure import LinkingAgreement, agreement, count_codes, micro_f1
from data_prep.reports.linker.report_documents import (
    N_MENTION_KINDS,
    DocumentMaker,
    asserted_mentions,
    content_words,
)
from data_prep.reports.linker.spaces import ConceptSpace, parts_of
from data_prep.reports.linker.training import LinkerSettings, train_model
from data_prep.reports.linker.vectors import WordVectors, train_vectors
from data_prep.reports.reading.files import SourceReport
from data_prep.reports.reading.splitting import coded_reports
from pneumonia.runtime.atomic import new_folder, write_json
from pneumonia.runtime.errors import ArtefactError, DataError
from pneumonia.runtime.output_folders import require_own_or_empty
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.tensorfile import read_tensors, write_tensors

SCHEMA = "pneumonia.linker/2"
_OWN_NAMES = {"linker.json", "weights.safetensors", "concepts.json"}
_FOLDS = 5
DECIDED_AT_ONCE = 64  # documents in one pass
_NEAR = 8  # words to either side of a mention that share its code's vector


class ParsedReport(NamedTuple):
    """A report, its sentences and mentions, and its manual codes in the base's spelling."""

    name: str
    sentences: list[Sentence]
    mentions: list[Mention]
    codes: tuple[str, ...]


class TrainedLinker:
    """Links the mentions of a report collectively; made by `train_linker` or `TrainedLinker.load`.

    Args:
        words: Word vectors, with those of headings and qualifiers.
    """

    def __init__(
        self, base: ConceptBase, priors: AliasPriors, words: WordVectors, config: LinkerSettings
    ) -> None:
        self.base, self.priors, self.words, self.config = base, priors, words, config
        self.space = ConceptSpace(base, words)
        self.generator = CandidateGenerator(base, priors)
        self.make = self.maker(self.generator)
        self.table = EntityTable(self.space, words)
        torch.manual_seed(config.seed)
        local = LOCAL_MODELS[config.local](self.table)
        self.model = DynamicContext(local, self.table, N_MENTION_KINDS, config.hops, config.hard)
        self.model.eval()

    def maker(self, generator: CandidateGenerator) -> DocumentMaker:
        """Makes documents with this linker's vectors and the candidates of `generator`."""
        return DocumentMaker(generator, self.space, self.words)

    def link(self, text: str, mentions: Sequence[Mention]) -> list[LinkDecision]:
        """Absent and prior mentions get the code of highest prior."""
        sentences, _ = finder_of(self.base).read(text)
        decided = iter(self.decide(self.make("", sentences, mentions)))
        stated = {id(mention) for mention in asserted_mentions(mentions)}
        return [next(decided) if id(m) in stated else self._by_prior(m) for m in mentions]

    def _by_prior(self, mention: Mention) -> LinkDecision:
        ranked = [c for c in self.generator.all_codes(mention) if c.entity != NIL]
        total = sum(candidate.prior for candidate in ranked)
        return LinkDecision(ranked[0].entity, ranked[0].prior / total)

    def decide(self, document: LinkDocument) -> list[LinkDecision]:
        """One decision per mention of a document, in the document's order."""
        if not document.mentions:
            return []
        return self.decide_all([document])[0]

    def decide_all(self, documents: Sequence[LinkDocument]) -> list[list[LinkDecision]]:
        """Decisions for many documents at once."""
        found: list[list[LinkDecision]] = [[] for _ in documents]
        by_length = sorted(range(len(documents)), key=lambda i: len(documents[i].mentions))
        ready = [i for i in by_length if documents[i].mentions]
        for at in range(0, len(ready), DECIDED_AT_ONCE):
            chosen = ready[at : at + DECIDED_AT_ONCE]
            for i, decisions in zip(
                chosen, self._pass([documents[i] for i in chosen]), strict=True
            ):
                found[i] = decisions
        return found

    def _pass(self, documents: Sequence[LinkDocument]) -> list[list[LinkDecision]]:
        shuffle = np.random.default_rng(self.config.seed)
        orders = [arrange(document, self.config.order, shuffle) for document in documents]
        with torch.no_grad():
            outcome = self.model(collate(documents, self.table, orders))
        shares = outcome.scores.softmax(dim=2).amax(dim=2).tolist()
        places = outcome.chosen.tolist()
        found = []
        for b, (document, order) in enumerate(zip(documents, orders, strict=True)):
            decisions = {
                i: LinkDecision(document.mentions[i].candidates[places[b][t]].entity, shares[b][t])
                for t, i in enumerate(order)
            }
            found.append([decisions[i] for i in range(len(order))])
        return found

    def save(self, out: Path) -> None:
        """Write the linker as a folder.

        Raises:
            OutputError: The folder holds something else or cannot be written.
        """
        refuse_other_output(out)
        arrays = {f"model.{k}": v.numpy() for k, v in self.model.state_dict().items()}
        arrays["words"] = self.words.matrix
        with new_folder(str(out)) as part:
            self.base.save(Path(part) / "concepts.json")
            write_tensors(f"{part}/weights.safetensors", arrays)
            table = {
                "schema": SCHEMA,
                "config": self.config.model_dump(),
                "words": list(self.words.words),
                "priors": self.priors.model_dump(mode="json"),
            }
            write_json(f"{part}/linker.json", table)

    @classmethod
    def load(cls, folder: Path) -> "TrainedLinker":
        """Read a linker.

        Raises:
            DataError: A file is missing or malformed.
            ArtefactError: The files of the folder do not match each other.
        """
        table = read_json(folder / "linker.json", SCHEMA)
        base = ConceptBase.load(folder / "concepts.json")
        path = folder / "weights.safetensors"
        if not path.is_file():
            raise DataError("Linker lacks a file", expected=path.name, where=str(folder))
        try:
            arrays = read_tensors(str(path))
            words = WordVectors(tuple(map(str, table["words"])), arrays.pop("words"))
            if words.matrix.dtype != np.float32 or len(words.words) != len(words.matrix):
                raise ValueError("word vectors")
            config = LinkerSettings(**table["config"])
            linker = cls(base, AliasPriors.model_validate(table["priors"]), words, config)
            state: dict[str, Any] = {
                name.removeprefix("model."): torch.from_numpy(value)
                for name, value in arrays.items()
            }
            linker.model.load_state_dict(state)
        except (
            ArtefactError, ValidationError, KeyError, TypeError, ValueError, AttributeError,
            RuntimeError,
        ) as error:  # fmt: skip
            raise ArtefactError(
                "Linker is damaged",
                found=type(error).__name__,
                where=str(folder),
                fix="Train it again with `pneumonia data train-linker`",
            ) from None
        return linker


def refuse_other_output(out: Path) -> None:
    """Refuse to replace an output folder that is not a linker; raises OutputError."""
    require_own_or_empty(str(out), "a linker", "linker.json", _OWN_NAMES)


def parse(base: ConceptBase, reports: Sequence[SourceReport]) -> list[ParsedReport]:
    """Sentences and mentions of readable reports that were indexed."""
    found = []
    for report in reports:
        if report.reason or "No Indexing" in report.codes:
            continue
        sentences, mentions = finder_of(base).read(report.text)
        codes = tuple(base.canonical(code) for code in report.codes)
        found.append(ParsedReport(report.report_id, sentences, mentions, codes))
    return found


def report_codes(decisions: Sequence[LinkDecision]) -> list[str]:
    """Codes of a report from the decisions on its asserted mentions; `normal` when there is none.

    An uncertain mention counts when the linker assigns a code: the model learns which uncertain
    findings are coded.
    """
    found = dict.fromkeys(d.code for d in decisions if d.code != NIL)
    return list(found) or [NORMAL]


def learn_vectors(
    base: ConceptBase, reports: Sequence[ParsedReport], dimensions: int
) -> WordVectors:
    """Word vectors of the reports, and in the same space vectors of headings and qualifiers."""
    together = []
    for report in reports:
        words = [word for sentence in report.sentences for word in sentence.words]
        for mention in asserted_mentions(report.mentions):
            gold = best_gold(mention, report.codes)
            if gold != NIL:
                near = words[max(0, mention.place - _NEAR) : mention.place + _NEAR + 1]
                together.append(([w for w in near if w.isalnum()], parts_of(gold)))
    sentences = [words for report in reports for words in content_words(report.sentences)]
    return train_vectors(sentences, dimensions, together=together)


def train_linker(
    train: Sequence[SourceReport],
    val: Sequence[SourceReport],
    config: LinkerSettings,
    source: dict[str, Any],
    progress: Progress | None = None,
) -> TrainedLinker:
    """Learn base, priors, vectors and model from coded reports.

    Args:
        train: Reports with manual codes.
        val: Validation reports, used to choose the epoch.
        source: Where the reports come from; kept in the concept base.

    Raises:
        DataError: Too few coded reports.
        TrainingError: No mention can be given a code.
    """
    base = build_base([report.codes for report in train if report.codes], source)
    parsed = parse(base, [report for report in train if report.codes])
    priors = learn_priors(base, [(asserted_mentions(r.mentions), r.codes) for r in parsed])
    words = learn_vectors(base, parsed, config.dimensions)
    linker = TrainedLinker(base, priors, words, config)
    documents = unbiased_documents(linker, parsed)
    held_out = [r for r in parse(base, val) if r.codes]
    fit(linker, documents, held_out, progress)
    return linker


def unbiased_documents(
    linker: TrainedLinker, reports: Sequence[ParsedReport]
) -> list[LinkDocument]:
    """Training documents whose candidates and priors exclude the document's own codes.

    Priors that include the report itself would make each of its rare codes a certain candidate, and
    the model would rely too much on them. Each fifth of the reports therefore gets its candidates
    from the codes of the other four fifths.
    """
    documents: list[LinkDocument] = []
    for fold in range(_FOLDS):
        others = [r for i, r in enumerate(reports) if i % _FOLDS != fold]
        counts = Counter(code for report in others for code in report.codes)
        base = linker.base.with_counts(counts)
        priors = learn_priors(base, [(asserted_mentions(r.mentions), r.codes) for r in others])
        make = linker.maker(CandidateGenerator(base, priors))
        documents += [make(r.name, r.sentences, r.mentions, r.codes) for r in reports[fold::_FOLDS]]
    return documents


def fit(
    linker: TrainedLinker,
    documents: Sequence[LinkDocument],
    val: Sequence[ParsedReport],
    progress: Progress | None = None,
) -> float:
    """Train a linker's model; the best epoch has the best mean F1 of headings and full codes."""
    val_documents = [linker.make(r.name, r.sentences, r.mentions) for r in val]
    gold = [r.codes for r in val]

    def evaluate(_: DynamicContext) -> float:
        decided = linker.decide_all(val_documents)
        codes = [report_codes(decisions) for decisions in decided]
        levels = ("heading", "code")
        return float(np.mean([micro_f1(count_codes(codes, gold, level)) for level in levels]))

    return train_model(linker.model, linker.table, documents, linker.config, evaluate, progress)


def train_on(
    source: Path, config: LinkerSettings, progress: Progress | None = None
) -> tuple[TrainedLinker, list[SourceReport]]:
    """Train on the fixed split of a source (70, 10, 20 %); returns the linker and the test part.

    Raises:
        DataError: The source cannot be read, or its reports have no manual codes.
    """
    parts = coded_reports(source)
    train, val, test = parts.values()
    if not all(parts.values()):
        raise DataError(
            "Too few reports with manual codes",
            expected="some thousand, in a column `mesh_major` or in OpenI's XML",
            found=str(sum(map(len, parts.values()))),
            where=str(source),
        )
    origin = {"reports_of": source.name, "split": "70/10/20 by report"}
    return train_linker(train, val, config, origin, progress), test


def judge(linker: TrainedLinker, reports: Sequence[SourceReport]) -> dict[str, LinkingAgreement]:
    """Agreement with manual codes, of headings and of full codes."""
    parsed = [r for r in parse(linker.base, reports) if r.codes]
    documents = [linker.make(r.name, r.sentences, r.mentions) for r in parsed]
    decided = linker.decide_all(documents)
    codes = [report_codes(d) for d in decided]
    gold = [r.codes for r in parsed]
    return {
        f"{level}s": agreement([count_codes(codes, gold, level)]) for level in ("heading", "code")
    }
