"""Dynamic context: against loops, against itself, and on documents only context can solve."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.reports.conll import NameSpace
from data_prep.reports.linker import dca
from data_prep.reports.linker.batches import DocumentBatch, EntityTable, arrange, collate
from data_prep.reports.linker.dca import DynamicContext, first_of_each
from data_prep.reports.linker.documents import (
    NIL,
    EntityCandidate,
    LinkDocument,
    LinkMention,
    gold_place,
)
from data_prep.reports.linker.local_models import AttentionLocal, ConvolutionLocal, attend
from data_prep.reports.linker.training import (
    LinkerSettings,
    mean_reward,
    reinforcement_loss,
    supervised_loss,
    train_model,
)
from data_prep.reports.linker.vectors import WordVectors
from pneumonia.runtime.errors import TrainingError

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")


def make_table(near: dict[str, list[str]] | None = None) -> EntityTable:
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0][: len(NAMES)]
    words = WordVectors(NAMES, matrix.astype(np.float32))
    return EntityTable(NameSpace(words, near), words)


def random_document(seed: int, n_mentions: int = 9) -> LinkDocument:
    chance = np.random.default_rng(seed)
    mentions = []
    for place in range(n_mentions):
        names = [str(n) for n in chance.permutation([*NAMES, NIL])[: chance.integers(2, 6)]]
        listed = tuple(EntityCandidate(n, float(chance.uniform(0.01, 1))) for n in names)
        words = tuple(str(w) for w in chance.choice(NAMES, size=chance.integers(0, 7)))
        gold = str(chance.choice([*names, "unlisted"]))
        mentions.append(LinkMention(place, words, listed, gold, size=int(chance.integers(1, 9))))
    return LinkDocument(str(seed), tuple(mentions))


def make_batch(table: EntityTable, count: int = 3) -> DocumentBatch:
    documents = [random_document(seed, 4 + 2 * seed) for seed in range(count)]
    return collate(documents, table, [list(range(len(d.mentions))) for d in documents])


def make_model(table: EntityTable, hops: int, hard: bool = True) -> DynamicContext:
    torch.manual_seed(1)
    return DynamicContext(AttentionLocal(table), table, 1, hops, hard).eval()


@pytest.mark.parametrize("keep", [None, 1, 2, 7])
def test_attention_is_the_published_formula(keep: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(2, 3, 4, 5, generator=generator)
    valid = torch.rand(2, 3, 4, generator=generator) < 0.8
    valid[..., 0] = True
    memory = torch.randn(2, 3, 6, 5, generator=generator)
    there = torch.rand(2, 3, 6, generator=generator) < 0.6
    there[0, 0] = False  # an empty set
    a, b = torch.randn(5, generator=generator), torch.randn(5, generator=generator)
    found = attend(candidates, valid, memory, there, (a, b), keep)
    for i, t in np.ndindex(2, 3):
        members = [m for m in range(6) if there[i, t, m]]
        entities = [c for c in range(4) if valid[i, t, c]]
        wanted = {
            m: max(float((candidates[i, t, c] * a) @ memory[i, t, m]) for c in entities)
            for m in members
        }
        kept = sorted(members, key=lambda m: -wanted[m])[: keep or 99]
        weights = np.exp([wanted[m] - max(wanted.values()) for m in kept])
        context = torch.zeros(5)
        for m, weight in zip(kept, weights / max(weights.sum(), 1e-9), strict=True):
            context += float(weight) * b * memory[i, t, m]
        expected = candidates[i, t] @ context
        torch.testing.assert_close(found[i, t], expected, rtol=1e-4, atol=1e-5)
    assert found[0, 0].abs().max() == 0


def test_a_set_holds_each_entity_once() -> None:
    numbers = torch.tensor([[3, 0, 3, 5, 5, 0]])
    assert first_of_each(numbers).tolist() == [[True, False, False, True, False, False]]


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("hard", [True, False])
def test_teaching_with_its_own_decisions_gives_the_scores_of_the_walk(
    hops: int, hard: bool
) -> None:
    """The whole document at once and step by step are two computations of the same numbers."""
    table = make_table({"alpha": ["beta", "zeta"], "gamma": ["alpha"]})
    batch = make_batch(table)
    model = make_model(table, hops, hard)
    with torch.no_grad():
        walked = model(batch)
        there = batch.order >= 0
        taught = model.teach(batch._replace(gold=torch.where(there, walked.chosen, -1)))
    torch.testing.assert_close(taught[there], walked.scores[there], rtol=1e-4, atol=1e-5)


def test_only_what_came_before_counts() -> None:
    table = make_table({"alpha": ["beta"]})
    batch = make_batch(table, 1)
    changed = batch._replace(log_prior=batch.log_prior.clone())
    changed.log_prior[:, 3:] += 3 * torch.randn(1, 1, batch.log_prior.shape[2])
    model = make_model(table, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(batch).scores[:, :3], model(changed).scores[:, :3])


def test_padding_changes_nothing() -> None:
    table = make_table({"alpha": ["beta"]})
    documents = [random_document(1, 4), random_document(2, 11)]
    orders = [list(range(len(d.mentions))) for d in documents]
    model = make_model(table, 2)
    with torch.no_grad():
        together = model(collate(documents, table, orders))
        alone = model(collate(documents[:1], table, orders[:1]))
    assert together.chosen[0, :4].tolist() == alone.chosen[0].tolist()
    n = alone.scores.shape[2]
    torch.testing.assert_close(together.scores[:1, :4, :n], alone.scores, rtol=1e-4, atol=1e-5)


def test_masked_candidates_are_never_chosen_and_nil_joins_no_set() -> None:
    table = make_table()
    batch = make_batch(table)
    model = make_model(table, 1)
    outcome = model(batch)
    there = batch.order >= 0
    picked = batch.valid.gather(2, outcome.chosen[..., None])[..., 0]
    assert bool(picked[there].all())
    assert outcome.scores[~batch.valid].detach().max().item() == -1e10
    assert table.space.vector(NIL).sum() == 0
    assert table.neighbours(torch.tensor(table.number(NIL))).sum() == 0


class OneFeature(nn.Module):
    """In place of the joining network: one of its five inputs is the score."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, features: Tensor) -> Tensor:
        return features[..., self.at : self.at + 1]


def test_what_is_linked_joins_both_sets_of_the_next_step_by_hand() -> None:
    """Vectors are orthonormal, so that a set of one entity scores it with the diagonal B."""
    table = make_table({"alpha": ["zeta"]})
    model = make_model(table, hops=2)
    later = tuple(EntityCandidate(name, 0.5) for name in ("zeta", "alpha", "beta"))
    mentions = (
        LinkMention(0, (), (EntityCandidate("alpha", 1.0),)),
        LinkMention(1, (), later),
        LinkMention(2, (), (EntityCandidate(NIL, 1.0),)),
        LinkMention(3, (), later),
    )
    batch = collate([LinkDocument("d", mentions)], table, [[0, 1, 2, 3]])
    model.join = OneFeature(2)  # linked entities
    with torch.no_grad():
        entities = model(batch)
    assert entities.scores[0, 0, 0] == 0  # nothing is linked before the first mention
    torch.testing.assert_close(entities.scores[0, 1], torch.tensor([0.0, 10.0, 0.0]))
    # {alpha} stays as it is: alpha was linked again, and NIL joins no set
    assert entities.chosen[0, 1] == 1
    torch.testing.assert_close(entities.scores[0, 3], torch.tensor([0.0, 10.0, 0.0]))
    model.join = OneFeature(4)  # their neighbours
    with torch.no_grad():
        neighbours = model(batch)
    torch.testing.assert_close(neighbours.scores[0, 1], torch.tensor([1.0, 0.0, 0.0]))
    # zeta is linked now, and has no neighbours
    torch.testing.assert_close(neighbours.scores[0, 3], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("n_mentions", [3, 150])
def test_the_work_is_linear_in_the_mentions(
    n_mentions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One local pass, one join a mention, and sets of bounded size."""
    table = make_table()
    model = make_model(table, 1)
    calls = {"local": 0, "join": 0}
    sizes: list[int] = []
    model.local.register_forward_hook(lambda *_: calls.update(local=calls["local"] + 1))
    model.join.register_forward_hook(lambda *_: calls.update(join=calls["join"] + 1))

    def counted(candidates: Tensor, valid: Tensor, memory: Tensor, *rest: object) -> Tensor:
        sizes.append(memory.shape[2])
        return attend(candidates, valid, memory, *rest)

    monkeypatch.setattr(dca, "attend", counted)
    document = random_document(3, n_mentions)
    with torch.no_grad():
        model(collate([document], table, [list(range(n_mentions))]))
    assert calls == {"local": 1, "join": n_mentions}
    assert sizes == [min(n, 100) for n in range(1, n_mentions)]


def test_orders() -> None:
    document = random_document(5, 20)
    chance = np.random.default_rng(0)
    assert arrange(document, "offset", chance) == list(range(20))
    sizes = [document.mentions[i].size for i in arrange(document, "size", chance)]
    assert sizes == sorted(sizes)
    mixed = arrange(document, "random", chance)
    assert sorted(mixed) == list(range(20))
    assert mixed != list(range(20))


def test_any_module_can_be_the_local_model() -> None:
    class Priors(nn.Module):
        def forward(self, batch: DocumentBatch) -> Tensor:
            return batch.log_prior

    table = make_table()
    outcome = DynamicContext(Priors(), table, 1, 2)(make_batch(table))
    assert outcome.scores.shape == make_batch(table).valid.shape


def test_the_convolution_sees_words_in_any_document_alike() -> None:
    table = make_table()
    local = ConvolutionLocal(table, maps=8).eval()
    batch = make_batch(table)
    scores = local(batch)
    assert scores.shape == batch.valid.shape
    assert float(scores.detach().abs().max()) <= 1 + 1e-5
    alone = local(DocumentBatch(*(part[1:2] for part in batch)))
    torch.testing.assert_close(scores[1:2], alone, rtol=1e-4, atol=1e-5)


def loss_batch() -> DocumentBatch:
    table = make_table()
    mention = LinkMention(
        0, (), (EntityCandidate("alpha", 0.5), EntityCandidate("beta", 0.5)), "beta"
    )
    unknown = mention._replace(gold=None)
    document = LinkDocument("d", (mention, mention, unknown))
    return collate([document], table, [[0, 1, 2]])


def test_supervised_loss_by_hand() -> None:
    batch = loss_batch()
    assert batch.gold.tolist() == [[1, 1, -1]]
    scores = torch.tensor([[[0.0, 1.0], [2.0, 2.0], [9.0, 0.0]]])
    entropy = (np.log(1 + np.exp(-1)) + np.log(2)) / 2
    # margins: max(0, 0.01 - 1 + 0) = 0 and max(0, 0.01 - 2 + 2) = 0.01
    assert supervised_loss(scores, batch, 0.01).item() == pytest.approx(entropy + 0.005, rel=1e-5)
    nothing = batch._replace(gold=torch.full_like(batch.gold, -1))
    assert supervised_loss(scores, nothing, 0.01).item() == 0


def test_reinforcement_loss_by_hand() -> None:
    batch = loss_batch()
    scores = torch.zeros(1, 3, 2)  # every action has probability 1/2
    chosen = torch.tensor([[1, 0, 0]])  # right, wrong, does not count
    assert mean_reward(chosen, batch).tolist() == [[-0.5]]
    # R_2 = mean(0, -1) = -1/2; R_1 = 0.9 * -1/2; loss = -(log(1/2) (R_1 + R_2)) / 2 steps
    expected = -(np.log(0.5) * (-0.45 - 0.5)) / 2
    assert reinforcement_loss(scores, chosen, batch).item() == pytest.approx(expected, rel=1e-5)
    right = torch.tensor([[1, 1, 0]])
    assert reinforcement_loss(scores, right, batch).item() == 0


def test_gradient_of_reinforce_with_a_baseline_by_hand() -> None:
    """Two mentions of two candidates, gold the second; one is drawn right, one wrong."""
    batch = loss_batch()
    chosen, greedy = torch.tensor([[1, 0, 0]]), torch.tensor([[0, 0, 0]])
    scores = torch.tensor([[[0.0, 1.0], [2.0, 2.0], [9.0, 0.0]]], requires_grad=True)
    baseline = mean_reward(greedy, batch)
    assert baseline.tolist() == [[-1.0]]
    reinforcement_loss(scores, chosen, batch, baseline).backward()
    # advantage = -1/2 - (-1) = 1/2, times 0.9 at the first step;
    # d loss / d score = -(1 if chosen - probability) advantage / 2 steps
    p = 1 / (1 + np.exp(-1))
    first, second = 0.45 / 2, 0.5 / 2
    expected = [[[(1 - p) * first, -(1 - p) * first], [-0.5 * second, 0.5 * second], [0.0, 0.0]]]
    torch.testing.assert_close(scores.grad, torch.tensor(expected, dtype=torch.float32))
    scores.grad = None
    reinforcement_loss(scores, chosen, batch, mean_reward(chosen, batch)).backward()
    assert not scores.grad.any()  # no better than the baseline: nothing to learn


def echo_documents(count: int, seed: int) -> list[LinkDocument]:
    """The first mention is told by its prior; the second is the same entity and says nothing."""
    chance = np.random.default_rng(seed)
    documents = []
    for number in range(count):
        first, second = (str(n) for n in chance.permutation(NAMES)[:2])
        sure = (EntityCandidate(first, 0.95), EntityCandidate(second, 0.05))
        pair = (EntityCandidate(first, 0.5), EntityCandidate(second, 0.5))
        open_ = pair if chance.random() < 0.5 else pair[::-1]
        mentions = (LinkMention(0, (), sure, first), LinkMention(1, (), open_, first))
        documents.append(LinkDocument(str(number), mentions))
    return documents


def second_right(model: DynamicContext, documents: list[LinkDocument]) -> float:
    batch = collate(documents, model.table, [[0, 1]] * len(documents))
    with torch.no_grad():
        chosen = model(batch).chosen
    return float((chosen[:, 1] == batch.gold[:, 1]).float().mean())


@pytest.mark.parametrize(
    ("hops", "learn", "low", "high"),
    [(0, "sl", 0.3, 0.7), (1, "sl", 0.97, 1.0), (2, "sl", 0.97, 1.0), (1, "rl", 0.97, 1.0)],
)
def test_what_only_the_document_tells_is_learnt_with_context_alone(
    hops: int, learn: str, low: float, high: float
) -> None:
    table = make_table()
    model = make_model(table, hops)
    train, test = echo_documents(160, 0), echo_documents(100, 1)
    config = LinkerSettings(
        hops=hops, learn=learn, epochs=12, warm_up=2, batch_size=16, learning_rate=5e-3
    )
    train_model(model, table, train, config, lambda m: second_right(m, train))
    assert low <= second_right(model, test) <= high


def test_training_keeps_the_best_epoch_and_is_repeatable() -> None:
    table = make_table()
    scores = iter([0.2, 0.9, 0.1, 0.1])
    states = []

    def evaluate(model: DynamicContext) -> float:
        states.append([p.detach().clone() for p in model.parameters()])
        return next(scores)

    documents = echo_documents(20, 0)
    model = make_model(table, 1)
    config = LinkerSettings(epochs=30, patience=2)
    seen: list[tuple[int, int, str]] = []
    best = train_model(model, table, documents, config, evaluate, lambda *a: seen.append(a))
    assert (best, len(states)) == (0.9, 4)  # two epochs without gain end it
    assert seen[-1] == (4, 30, "validation 0.900")
    for kept, then in zip(model.parameters(), states[1], strict=True):
        torch.testing.assert_close(kept.detach(), then)
    again = make_model(table, 1)
    train_model(again, table, documents, config.model_copy(update={"epochs": 2}), lambda m: 0.5)
    for one, other in zip(states[0], again.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=0, atol=0)


def test_documents_without_gold_cannot_be_trained_on() -> None:
    table = make_table()
    blind = [
        LinkDocument(d.name, tuple(m._replace(gold=None) for m in d.mentions))
        for d in echo_documents(3, 0)
    ]
    with pytest.raises(TrainingError, match="known code"):
        train_model(make_model(table, 1), table, blind, LinkerSettings(), lambda m: 0.0)


def test_gold_place() -> None:
    mention = LinkMention(0, (), (EntityCandidate("a", 1), EntityCandidate(NIL, 1)), NIL)
    assert gold_place(mention) == 1
    assert gold_place(mention._replace(gold="c")) == gold_place(mention._replace(gold=None)) == -1
