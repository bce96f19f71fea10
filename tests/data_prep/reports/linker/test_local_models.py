"""Local models and the typing model: against loops and by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.reports.conll import NameSpace
from data_prep.reports.findings.concepts import NIL, ConceptBase, ConceptTables
from data_prep.reports.linker.batches import EntityTable, collate
from data_prep.reports.linker.dca import TypeModel
from data_prep.reports.linker.documents import EntityCandidate, LinkDocument, LinkMention
from data_prep.reports.linker.local_models import ConvolutionLocal, TextConvolution
from data_prep.reports.linker.spaces import ConceptSpace, ContextScore
from data_prep.reports.linker.vectors import WordVectors

WORDS = ("left", "lung", "opacity", "effusion", "heart")
VECTORS = WordVectors(WORDS, np.linalg.qr(np.eye(5) + 0.3)[0].astype(np.float32))
SPACE = NameSpace(VECTORS, descriptions={"lung_opacity": ("left", "heart", "lung", "opacity")})
DOCUMENT = LinkDocument(
    "d",
    (
        LinkMention(
            0, ("left", "lung"), (EntityCandidate("lung_opacity", 0.6), EntityCandidate(NIL, 0.4)),
            "lung_opacity", surface=("opacity",),
        ),
        LinkMention(1, ("heart",), (EntityCandidate("effusion", 1.0),), "effusion", kind=1),
    ),
    ("left", "lung", "opacity", "unknown", "effusion", "heart"),
)  # fmt: skip


def read(text: TextConvolution, words: tuple[str, ...]) -> Tensor:
    """What a convolution and max-pooling make of known words."""
    rows = [WORDS.index(word) for word in words if word in WORDS]
    if not rows:
        return torch.zeros(len(text.bias))
    return text.layer(torch.from_numpy(VECTORS.matrix[rows]).T[None]).amax(dim=2)[0] + text.bias


def test_the_cnn_joins_three_texts_of_a_mention_with_two_of_a_candidate() -> None:
    table = EntityTable(SPACE, VECTORS)
    torch.manual_seed(0)
    local = ConvolutionLocal(table, maps=6)
    for text in (*local.sources, *local.targets):
        torch.nn.init.normal_(text.bias)
    with torch.no_grad():
        scores = local(collate([DOCUMENT], table, [[0, 1]]))
        for t, mention in enumerate(DOCUMENT.mentions):
            texts = (mention.surface, mention.context, DOCUMENT.words)
            for c, candidate in enumerate(mention.candidates):
                known = (SPACE.title(candidate.entity), SPACE.description(candidate.entity))
                cosines = [
                    functional.cosine_similarity(read(a, x), read(b, y), dim=0)
                    for a, x in zip(local.sources, texts, strict=True)
                    for b, y in zip(local.targets, known, strict=True)
                ]
                expected = local.weigh(torch.stack(cosines))[0]
                torch.testing.assert_close(scores[0, t, c], expected, rtol=1e-4, atol=1e-5)


def test_types_by_hand() -> None:
    table = EntityTable(SPACE, VECTORS)
    batch = collate([DOCUMENT], table, [[0, 1]])
    model = TypeModel(table, n_mention_kinds=2)
    with torch.no_grad():
        model.read.weight.zero_()
        model.read.bias.zero_()
        model.kinds.copy_(torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]]))
        found = model(batch)
        torch.testing.assert_close(found[0].exp(), torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
        # both gold entities are of type 1
        assert model.loss(batch).item() == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
        blind = batch._replace(gold=torch.full_like(batch.gold, -1))
        assert model.loss(blind).item() == 0


def test_types_are_learnt_from_the_text() -> None:
    base = ConceptBase(
        ConceptTables(
            codes={"Opacity": 1, "Cardiomegaly": 1},
            groups={"Lungs": ["Opacity"], "Heart": ["Cardiomegaly"]},
        )
    )
    table = EntityTable(ConceptSpace(base, VECTORS), VECTORS)
    both = (EntityCandidate("Opacity", 0.5), EntityCandidate("Cardiomegaly", 0.5))
    document = LinkDocument("d", (LinkMention(0, ("lung",), both, "Opacity"),
                                  LinkMention(1, ("heart",), both, "Cardiomegaly")))  # fmt: skip
    batch = collate([document], table, [[0, 1]])
    model = TypeModel(table, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(batch).backward()
        optimiser.step()
    with torch.no_grad():
        assert model(batch).gather(2, batch.entity_kind).argmax(dim=2).tolist() == [[0, 1]]


def test_a_concept_is_described_by_aliases_group_and_neighbours() -> None:
    base = ConceptBase(
        ConceptTables(
            codes={"Opacity/lung": 1, "Effusion": 1},
            groups={"Lungs": ["Opacity"]},
            aliases={"Opacity": ["hazy", "opacified lung"]},
            neighbours={"Opacity": ["Effusion"]},
        )
    )
    space = ConceptSpace(base, VECTORS)
    assert space.title("Opacity/lung") == ("opacity", "lung")
    assert space.description("Opacity/lung") == ("hazy", "opacified", "lung", "effusion")
    assert space.title(NIL) == space.description(NIL) == ()


def test_entities_of_a_vector_file_have_their_own_vectors() -> None:
    matrix = np.array([[1, 0], [0, 1]], np.float32)
    space = NameSpace(WordVectors(("left", "ENTITY/Left_Bank"), matrix))
    np.testing.assert_array_equal(space.vector("Left_Bank"), [0, 1])
    np.testing.assert_array_equal(space.vector("Left_Hand"), [1, 0])  # by its words
    assert not space.vector(NIL).any()


def test_the_context_score_is_a_product_with_the_sum_of_the_words() -> None:
    found = ContextScore(SPACE, VECTORS)(["effusion", NIL], ["effusion", "effusion", "unknown"])
    assert found == pytest.approx({"effusion": 2.0, NIL: 0.0}, abs=1e-6)
