"""Local models and DCA on files of an entity-linking benchmark (AIDA-CoNLL, MSNBC and others).

    python -m benchmarks.reports.linking_conll TRAIN DEV TEST --vectors enwiki_300d.txt --seeds 3

Accuracy of mentions whose entity is in the knowledge base, by the best epoch on DEV. Vectors: a
text file of words, and of entities as `ENTITY/Name_of_it`; without one they are learnt from the
words of TRAIN.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.reporting import argument_parser
from benchmarks.reports.conll import (
    ENTITY_PREFIX,
    NameSpace,
    preselect,
    read_candidate_file,
    read_vectors,
)
from data_prep.reports.linker.batches import EntityTable, Order, arrange, collate
from data_prep.reports.linker.dca import DynamicContext
from data_prep.reports.linker.documents import NIL, LinkDocument
from data_prep.reports.linker.local_models import LOCAL_MODELS
from data_prep.reports.linker.spaces import words_of
from data_prep.reports.linker.training import LinkerSettings, train_model
from data_prep.reports.linker.vectors import WordVectors, train_vectors

METHODS: dict[str, dict[str, object]] = {
    "local only": {"hops": 0},
    "1-hop, offset": {"hops": 1},
    "1-hop, size": {"hops": 1, "order": "size"},
    "1-hop, random": {"hops": 1, "order": "random"},
    "2-hop, offset": {"hops": 2},
    "1-hop, offset, RL": {"hops": 1, "learn": "rl"},
}
_NEIGHBOURS = 8


def vectors_of(parts: Sequence[Sequence[LinkDocument]], file: Path | None) -> WordVectors:
    """Load or train vectors for the words and entities that occur in the documents.

    Args:
        parts: Documents of each part; the training part first.
        file: Word-vector file; None = word vectors are learnt from the training part.
    """
    if file is None:
        return train_vectors((m.context for d in parts[0] for m in d.mentions), 100)
    mentions = [m for part in parts for d in part for m in d.mentions]
    names = {c.entity for m in mentions for c in m.candidates}
    wanted = {ENTITY_PREFIX + name for name in names}
    wanted.update(word for m in mentions for word in (*m.context, *m.surface))
    wanted.update(word for name in names for word in words_of(name.replace("_", " ")))
    return read_vectors(file, wanted)


def linked_together(documents: Sequence[LinkDocument]) -> dict[str, list[str]]:
    """Entity -> the entities most often linked in the same training document."""
    beside: dict[str, Counter[str]] = {}
    for document in documents:
        names = {m.gold for m in document.mentions if m.gold not in (None, NIL)}
        for name in names:
            beside.setdefault(str(name), Counter()).update(str(n) for n in names - {name})
    return {name: [n for n, _ in c.most_common(_NEIGHBOURS)] for name, c in beside.items()}


def accuracy(model: DynamicContext, documents: Sequence[LinkDocument], order: Order) -> float:
    """Share of the mentions with an entity that are linked to it; no candidate is an error."""
    right = total = 0
    for document in documents:
        steps = arrange(document, order, np.random.default_rng(0))
        with torch.no_grad():
            chosen = model(collate([document], model.table, [steps])).chosen[0].tolist()
        for place, i in zip(chosen, steps, strict=False):
            mention = document.mentions[i]
            if mention.gold == NIL:
                continue
            total += 1
            names = [candidate.entity for candidate in mention.candidates]
            right += bool(names) and names[place] == mention.gold
    return right / max(1, total)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("files", type=Path, nargs=3, metavar=("TRAIN", "DEV", "TEST"))
    parser.add_argument("--vectors", type=Path, help="Text file of word and entity vectors.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = [read_candidate_file(path) for path in options.files]
    words = vectors_of(parts, options.vectors)
    space = NameSpace(words, linked_together(parts[0]))
    train, dev, test = (preselect(part, space, words) for part in parts)
    table = EntityTable(space, words)
    for local, (name, method) in product(LOCAL_MODELS, METHODS.items()):
        found = []
        for seed in range(options.seeds):
            config = LinkerSettings.model_validate(
                {"local": local, **method, "epochs": options.epochs, "seed": seed}
            )
            torch.manual_seed(seed)
            model = DynamicContext(LOCAL_MODELS[local](table), table, 1, config.hops, config.hard)
            judge = partial(accuracy, order=config.order)
            train_model(model, table, train, config, partial(judge, documents=dev))
            found.append((judge(model, documents=dev), judge(model, documents=test)))
        (a, b), spread = np.mean(found, axis=0), np.std(found, axis=0)[1]
        print(f"{name} over {local}: dev {a:.4f}, test {b:.4f} (sd {spread:.4f})", flush=True)


if __name__ == "__main__":
    main()
