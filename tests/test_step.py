"""One optimiser step: the gradient of 1, 2 and 4 ranks is the gradient of one big batch, dropout and all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from checkpoints import make_bert
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from hybrid_ir.batches.batch import Batch, TeacherScores, TeacherVectors
from hybrid_ir.encoders.embedding import Embedder, freeze_unused
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.packed import halves
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.training.losses.settings import LossSettings
from hybrid_ir.training.step import across_ranks, backward, learning_rate_at, make_optimizer, update

Result = tuple[float, int, dict[str, torch.Tensor]]
# Dropout of the packed pass is not drawn as the second implementation draws it, so there it has none.
WAYS = {"packed": 0.0, "padded": 0.1}
BUDGET = 48  # padded tokens of a micro-batch
SCENARIOS = [
    LossSettings(temperature=0.1, symmetric=symmetric, negatives=negatives, cached=cached)
    for negatives, symmetric, cached in product(
        ("in_batch", "in_batch_and_hard", "triplet"), (False, True), (False, True)
    )
]
SCENARIOS.append(LossSettings(0.1, symmetric=True, negatives="in_batch_and_hard", cached=True, dimensions=(8, 3)))
SCENARIOS += [
    LossSettings(0.1, False, "in_batch", False, teacher="kl", teacher_weight=1.0, teacher_temperature=0.3),
    LossSettings(0.1, True, "in_batch_and_hard", True, (8, 3), "kl", teacher_weight=0.7, alignment=2.0),
    LossSettings(0.1, True, "triplet", False, teacher="margin_mse"),
    LossSettings(0.1, False, "in_batch_and_hard", True, (8, 3), teacher="mse", teacher_weight=0.3, alignment=2.0),
    LossSettings(0.1, True, "in_batch_and_hard", False, (8, 3), teacher="kl"),
    LossSettings(0.1, False, "triplet", False, teacher="kl", teacher_weight=1.0),
    LossSettings(0.1, False, "triplet", True, teacher="margin_mse", teacher_temperature=4.0),
    LossSettings(0.1, False, "triplet", False, alignment=0.5),
]
RERANKED = range(len(SCENARIOS) - 4, len(SCENARIOS) - 1)
"""Scenarios whose teacher is a reranker."""
NAMES = [
    s.negatives
    + "-symmetric" * s.symmetric
    + "-cached" * s.cached
    + "-shorter" * bool(s.dimensions)
    + (f"-{'reranker' if n in RERANKED else 'encoder'}-{s.teacher}" if s.teacher else "")
    + "-aligned" * bool(s.alignment)
    for n, s in enumerate(SCENARIOS)
]
# What is planted in the seven rows of both batches: (i, j) = passage j, or a hard negative of row j, answers query i.
PLANTED_POSITIVES = {(0, 4), (4, 0), (1, 6), (6, 1), (2, 3), (3, 2), (6, 0), (6, 4)}
NEGATIVES = (1, 3, 1, 2, 4, 1, 2)
"""How many hard negatives each row has."""
PLANTED_NEGATIVES = {(2, 3), (3, 3), (5, 5)}
"""Of each of these rows it is the last one."""
PARALLEL = (0, 2, 3, 6)
"""Rows with a question in another language: none of the third of four ranks."""


def make_batch(step: int, rows: int = 7) -> Batch:
    """Seven rows in two languages, texts of 3 to 20 tokens. Rows 0 and 4 share a passage in one language, 1 and 6
    across the two; group 6 has that of rows 0 and 4 as a second one. The last hard negative of row 3 is row 2's
    passage, that of row 5 a second passage of its own. Rows 2 and 3 ask the same question."""
    random = np.random.default_rng(step)

    def texts(count: int = rows) -> Tokens:
        return Tokens.of([random.integers(5, 60, size=n) for n in random.integers(3, 21, size=count)])

    languages = np.asarray([0, 1, 0, 0, 0, 1, 0])
    ids = np.asarray([[10 * i, 10 * i + 1] for i in range(1, rows + 1)])
    ids[4, 0] = ids[0, 0]
    ids[6] = ids[1]
    ids[2, 1] = -1
    further = np.full((rows, 2), -1)
    further[6, 0], further[5, 1] = ids[0, 0], 777
    negatives = np.asarray([900 + i for i in range(sum(NEGATIVES))])
    last = np.cumsum(NEGATIVES) - 1
    negatives[last[3]], negatives[last[5]] = ids[2, 0], 777
    questions = np.arange(rows)[:, None]
    questions[3] = questions[2]
    return Batch(
        step=step,
        kind="multilingual",
        pairs=tuple(("en", "de" if x else "en") for x in languages),
        query_tokens=texts(),
        passage_tokens=texts(),
        negative_tokens=texts(sum(NEGATIVES)),
        passage_ids_BLS=np.stack([ids, further], axis=2),
        passage_language_B=languages,
        query_ids_BM=questions,
        query_language_B=np.zeros(rows, dtype=np.int64),
        negative_ids_N=negatives,
        negative_row_N=np.repeat(np.arange(rows), NEGATIVES),
    )


def batch_for(scenario: int, step: int) -> Batch:
    """`make_batch` with what the scenario's teacher says of it, and with questions to align with."""
    batch, settings = make_batch(step), SCENARIOS[scenario]
    random = np.random.default_rng([step, 1])

    def unit(count: int) -> np.ndarray:
        vectors = random.normal(size=(count, 16))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    teacher = None
    if scenario in RERANKED:
        passages, negatives = 5 * random.normal(size=batch.size), 5 * random.normal(size=sum(NEGATIVES))
        teacher = TeacherScores(passages.astype(np.float32), negatives.astype(np.float32))
    elif settings.teacher:
        teacher = TeacherVectors(unit(batch.size), unit(batch.size), unit(sum(NEGATIVES)))
    if not settings.alignment:
        return replace(batch, teacher=teacher)
    questions = Tokens.of([random.integers(5, 60, size=n) for n in random.integers(3, 21, size=len(PARALLEL))])
    return replace(batch, teacher=teacher, parallel_tokens=questions, parallel_row=np.asarray(PARALLEL))


def load(folder: str | Path, budget: int = BUDGET, way: str = "padded", dropout: float = 0.1) -> Embedder:
    """A real BERT in float64, in training mode, its forward pass ours (packed) or that of transformers (padded)."""
    model = load_encoder(str(folder), dropout=dropout).double()
    if way == "padded":
        model[0].model.register_forward_hook(lambda *_: None)  # with which it is not packed
    embedder = Embedder(model, precision="fp32", micro_batch_tokens=budget)
    freeze_unused(embedder)
    return embedder.train()


def seed_of(step: int, rank: int) -> int:
    return 1000 * step + rank


def gradient(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


# The second implementation: no slices of a mask, no gather, no DDP, no cache.


def plain_embed(model: SentenceTransformer, texts: Sequence[np.ndarray]) -> torch.Tensor:
    """Shortest texts first, as many together as the budget allows; rows in the order of `texts`."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    chunks: list[list[int]] = []
    for i in order:
        if chunks and len(texts[i]) * (len(chunks[-1]) + 1) <= BUDGET:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    rows: dict[int, torch.Tensor] = {}
    for chunk in chunks:
        padded = nn.utils.rnn.pad_sequence([torch.from_numpy(texts[i]).long() for i in chunk], batch_first=True)
        attention = torch.tensor([[int(k < len(texts[i])) for k in range(padded.shape[1])] for i in chunk])
        vectors = model({"input_ids": padded, "attention_mask": attention})["sentence_embedding"]
        rows |= dict(zip(chunk, vectors, strict=True))
    return torch.stack([rows[i] for i in range(len(texts))])


def big_loss(
    queries: torch.Tensor, passages: torch.Tensor, *hard: torch.Tensor, settings: LossSettings
) -> torch.Tensor:
    size = len(queries)
    minus_infinity = torch.zeros(size, size, dtype=torch.float64)
    for i, j in PLANTED_POSITIVES:
        minus_infinity[i, j] = -torch.inf
    logits = queries @ passages.T / settings.temperature + minus_infinity
    target = torch.arange(size)
    if hard:
        masked = torch.zeros(size, sum(NEGATIVES), dtype=torch.float64)
        for i, j in PLANTED_NEGATIVES:
            masked[i, sum(NEGATIVES[: j + 1]) - 1] = -torch.inf
        others = queries @ hard[0].T / settings.temperature + masked
        if settings.negatives == "triplet":
            forward = F.cross_entropy(torch.cat([logits.diagonal()[:, None], others], dim=1), torch.zeros_like(target))
        else:
            forward = F.cross_entropy(torch.cat([logits, others], dim=1), target)
    else:
        forward = F.cross_entropy(logits, target)
    return (forward + F.cross_entropy(logits.T, target)) / 2 if settings.symmetric else forward


def plain_candidates(i: int, negatives: str) -> list[tuple[str, int]]:
    """What row i chooses from, its passage first: ("p", row) or ("n", number of a hard negative)."""
    found = [("p", i)]
    if negatives != "triplet":
        found += [("p", j) for j in range(7) if j != i and (i, j) not in PLANTED_POSITIVES]
    if negatives != "in_batch":
        found += [("n", k) for j in range(7) for k in own_negatives(j, i)]
    return found


def own_negatives(j: int, asking: int) -> list[int]:
    """Numbers of row j's hard negatives that are none of row `asking`'s answers."""
    ends = np.cumsum(NEGATIVES)
    numbers = range(ends[j] - NEGATIVES[j], ends[j])
    return [k for k in numbers if (asking, j) not in PLANTED_NEGATIVES or k != ends[j] - 1]


def softmax(values: list[torch.Tensor]) -> list[torch.Tensor]:
    total: Any = sum(value.exp() for value in values)
    return [value.exp() / total for value in values]


def plain_kl(teacher: list[torch.Tensor], student: list[torch.Tensor]) -> Any:
    return sum(p * (p / q).log() for p, q in zip(softmax(teacher), softmax(student), strict=True))


def plain_lesson(vectors: dict[str, torch.Tensor], batch: Batch, settings: LossSettings) -> Any:
    """The teacher's loss, a candidate at a time. `vectors` are the student's: q, p and n."""
    said: Any = batch.teacher
    total: Any = torch.zeros((), dtype=torch.float64)
    encoder, of = isinstance(said, TeacherVectors), {}
    if encoder:
        named = {"q": said.queries_BD, "p": said.passages_BD, "n": said.negatives_ND}
        of = {half: torch.from_numpy(values.astype(np.float64)) for half, values in named.items()}
        if settings.teacher == "mse":
            return sum(((vectors[half] - of[half]) ** 2).sum() for half in "qp") / 2 / batch.size
    for i in range(batch.size):

        def student(half: str, j: int, i: int = i) -> torch.Tensor:
            return vectors["q"][i] @ vectors[half][j] / settings.temperature

        def teacher(half: str, j: int, i: int = i) -> torch.Tensor:
            if encoder:
                return of["q"][i] @ of[half][j] / (settings.teacher_temperature or settings.temperature)
            score = (said.passages_B if half == "p" else said.negatives_N)[j]
            return torch.tensor(float(score) / (settings.teacher_temperature or 1), dtype=torch.float64)

        own = [("p", i), *(("n", k) for k in own_negatives(i, i))]
        if settings.teacher == "margin_mse":
            errors = [student(*own[0]) - student(*n) - (teacher(*own[0]) - teacher(*n)) for n in own[1:]]
            total = total + sum(error**2 for error in errors) / max(len(errors), 1)
            continue
        candidates = plain_candidates(i, settings.negatives) if encoder else own
        found = plain_kl([teacher(*c) for c in candidates], [student(*c) for c in candidates])
        if encoder and settings.symmetric:
            asking = [i, *(j for j in range(batch.size) if j != i and (j, i) not in PLANTED_POSITIVES)]
            theirs = [of["q"][j] @ of["p"][i] / (settings.teacher_temperature or settings.temperature) for j in asking]
            ours = [vectors["q"][j] @ vectors["p"][i] / settings.temperature for j in asking]
            found = (found + plain_kl(theirs, ours)) / 2
        total = total + found
    return total / batch.size


def plain_disagreement(vectors: dict[str, torch.Tensor], settings: LossSettings) -> torch.Tensor:
    """Jensen-Shannon's divergence from its definition: of each distribution to the mean of both."""
    total = torch.zeros((), dtype=torch.float64)
    for a, i in enumerate(PARALLEL):
        candidates = plain_candidates(i, settings.negatives)
        scores = ([asked @ vectors[half][j] / settings.temperature for half, j in candidates]
                  for asked in (vectors["q"][i], vectors["a"][a]))  # fmt: skip
        one, other = map(softmax, scores)
        for p, q in zip(one, other, strict=True):
            mean = (p + q) / 2
            total = total + (p * (p / mean).log() + q * (q / mean).log()) / 2
    return total / 7


def one_big_batch(model: SentenceTransformer, batch: Batch, settings: LossSettings, workers: int) -> float:
    """Every rank's rows are embedded under that rank's dropout; then one cross-entropy over all rows, one backward."""
    parts: list[list[torch.Tensor]] = []
    bounds = np.cumsum([0] + [len(x) for x in np.array_split(np.arange(batch.size), workers)])
    assert batch.negative_tokens is not None
    for rank in range(workers):
        rows = range(bounds[rank], bounds[rank + 1])
        texts = [batch.query_tokens[i] for i in rows] + [batch.passage_tokens[i] for i in rows]
        sizes = [len(rows), len(rows)]
        if settings.negatives != "in_batch":
            of_rows = [k for k, i in enumerate(np.repeat(np.arange(batch.size), NEGATIVES)) if i in rows]
            texts += [batch.negative_tokens[k] for k in of_rows]
            sizes.append(len(of_rows))
        if batch.parallel_tokens is not None:
            of_rows = [k for k, i in enumerate(PARALLEL) if i in rows]
            texts += [batch.parallel_tokens[k] for k in of_rows]
            sizes.append(len(of_rows))
        torch.manual_seed(seed_of(batch.step, rank))
        parts.append(list(plain_embed(model, texts).split(sizes)))
    whole = [torch.cat(rows) for rows in zip(*parts, strict=True)]
    halves = ["q", "p", *["n"] * (settings.negatives != "in_batch"), *["a"] * bool(settings.alignment)]
    weight, losses, apart = settings.teacher_weight, [], []
    for dimension in (None, *settings.dimensions):
        cut = [vectors[:, :dimension] for vectors in whole]
        vectors = {half: each / each.norm(dim=1)[:, None] for half, each in zip(halves, cut, strict=True)}
        losses.append(big_loss(*(vectors[half] for half in halves if half != "a"), settings=settings))
        if settings.teacher in ("kl", "margin_mse"):
            losses[-1] = (1 - weight) * losses[-1] + weight * plain_lesson(vectors, batch, settings)
        if settings.alignment:
            apart.append(settings.alignment * plain_disagreement(vectors, settings))
    loss = torch.stack(losses).mean()
    if settings.teacher == "mse":
        loss = (1 - weight) * loss + weight * plain_lesson(dict(zip(halves, whole, strict=True)), batch, settings)
    if apart:
        loss = loss + torch.stack(apart).mean()
    loss.backward()
    return float(loss.detach())


def process_main(rank: int, folder: str) -> None:
    """One of four processes, ranks of a group of one, then of two, then of four: starting them is what costs."""
    torch.set_num_threads(1)
    for workers in (1, 2, 4):
        if rank < workers:
            rank_main(rank, workers, folder)


def rank_main(rank: int, workers: int, folder: str) -> None:
    """Two steps of every scenario; the losses, numbers of reductions and gradients go to a file."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{workers}", rank=rank, world_size=workers,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    for way, dropout in WAYS.items():
        embedder = load(f"{folder}/bert", way=way, dropout=dropout)
        torch.save(results_of(embedder, rank, workers), f"{folder}/result-{way}-{workers}-{rank}.pt")
        fresh = load(f"{folder}/bert", way=way, dropout=dropout)  # a second DDP around one embedder would reduce twice
        torch.manual_seed(seed_of(1, rank))
        backward(across_ranks(fresh, "bf16"), make_batch(1), SCENARIOS[0], rank, workers)
        torch.save(gradient(fresh), f"{folder}/bf16-{way}-{workers}-{rank}.pt")
    dist.destroy_process_group()


def results_of(embedder: Embedder, rank: int, workers: int) -> list[Result]:
    wrapped = DistributedDataParallel(embedder)
    reductions = 0

    def count(state, bucket):
        nonlocal reductions
        reductions += 1
        return allreduce_hook(state, bucket)

    wrapped.register_comm_hook(None, count)
    results = []
    for scenario, settings in enumerate(SCENARIOS):
        for step in (1, 2):
            reductions = 0
            torch.manual_seed(seed_of(step, rank))
            loss = float(backward(wrapped, batch_for(scenario, step), settings, rank, workers))
            results.append((loss, reductions, gradient(embedder)))
            embedder.zero_grad(set_to_none=True)
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("step")
    make_bert(folder / "bert", hidden=16)
    return folder


@pytest.fixture(scope="module", params=list(WAYS))
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def embedder(folder: Path, way: str) -> Embedder:
    return load(folder / "bert", way=way, dropout=WAYS[way])


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    mp.spawn(process_main, args=(str(folder),), nprocs=4)
    return folder


@pytest.fixture(params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest, trained: Path, way: str) -> list[list[Result]]:
    """What each rank of a group of 1, 2 or 4 got: for each scenario and step a loss, number of reductions, gradient."""
    return results_in(trained, way, request.param)


@cache  # every scenario asks for all of them
def results_in(folder: Path, way: str, workers: int) -> list[list[Result]]:
    return [torch.load(folder / f"result-{way}-{workers}-{rank}.pt") for rank in range(workers)]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", range(len(SCENARIOS)), ids=NAMES)
def test_ranks_give_the_gradient_of_one_big_batch(ranks, embedder: Embedder, scenario: int):
    for step in (1, 2):
        embedder.zero_grad(set_to_none=True)
        expected = one_big_batch(embedder.model, batch_for(scenario, step), SCENARIOS[scenario], len(ranks))
        ours = [rank[2 * scenario + step - 1] for rank in ranks]
        assert np.mean([loss for loss, _, _ in ours]) == pytest.approx(expected, abs=1e-12)
        big = gradient(embedder)
        assert max(float(g.abs().max()) for g in big.values()) > 1e-3
        for _, _, small in ours:
            assert small.keys() == big.keys()
            for name in big:
                torch.testing.assert_close(small[name], big[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.slow
def test_gradients_that_are_exchanged_in_bf16_are_those_of_float32_rounded(ranks, trained: Path, way: str):
    for rank, results in enumerate(ranks):
        low = torch.load(trained / f"bf16-{way}-{len(ranks)}-{rank}.pt")
        exact = results[0][2]
        assert low.keys() == exact.keys()
        whole, rounded = (torch.cat([g.flatten() for g in each.values()]) for each in (exact, low))
        assert 0 < float((rounded - whole).norm() / whole.norm()) < 0.01


@pytest.mark.slow
def test_a_step_reduces_the_gradient_once_cached_or_not(ranks, embedder: Embedder):
    batch = make_batch(1)
    assert len(embedder.micro_batches(batch.query_tokens[:2] + batch.passage_tokens[:2])) > 1  # even a rank of four
    assert {reductions for rank in ranks for _, reductions, _ in rank} == {1}


def test_the_slices_of_four_ranks_are_uneven_and_so_are_their_micro_batches(embedder: Embedder):
    batch = make_batch(1)
    texts = [batch.query_tokens[i : i + 2] + batch.passage_tokens[i : i + 2] for i in (0, 2, 4, 6)]
    assert [len(x) for x in texts] == [4, 4, 4, 2]
    assert len({len(embedder.micro_batches(x)) for x in texts}) > 1


def test_dropout_changes_the_gradient(folder: Path, way: str):
    """Else the tests around would show nothing about it."""
    embedder, found = load(folder / "bert", way=way), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(float(backward(embedder, make_batch(1), SCENARIOS[0], 0, 1)))
        embedder.zero_grad(set_to_none=True)
    assert abs(found[0] - found[1]) > 1e-4


@pytest.mark.parametrize("budget", [16, BUDGET, 10_000])
@pytest.mark.parametrize("least", [halves.TOKENS_A_HALF, 4], ids=["whole", "halves"])
def test_cached_equals_plain_and_leaves_the_generator_where_plain_does(
    folder: Path, way: str, budget: int, least: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(halves, "TOKENS_A_HALF", least)
    embedder = load(folder / "bert", budget, way)
    found = []
    for cached in (False, True):
        torch.manual_seed(5)
        settings = LossSettings(temperature=0.1, symmetric=True, negatives="in_batch_and_hard", cached=cached)
        loss = float(backward(embedder, make_batch(1), settings, 0, 1))
        found.append((loss, gradient(embedder), torch.get_rng_state()))
        embedder.zero_grad(set_to_none=True)
    (loss, plain, state), (cached_loss, cached_gradient, cached_state) = found
    assert cached_loss == pytest.approx(loss, abs=1e-12)
    for name in plain:
        torch.testing.assert_close(cached_gradient[name], plain[name], atol=1e-11, rtol=0, msg=name)
    assert torch.equal(state, cached_state)


def test_unused_hard_negatives_are_not_embedded(embedder: Embedder):
    batch = make_batch(1)
    seen = 0

    def count(module: nn.Module, arguments: tuple, vectors: torch.Tensor) -> None:
        nonlocal seen
        seen += len(vectors)

    handle = embedder.register_forward_hook(count)
    backward(embedder, batch, LossSettings(0.1, False, "in_batch", False), 0, 1)
    handle.remove()
    embedder.zero_grad(set_to_none=True)
    assert seen == 2 * batch.size


# The optimiser.


def test_biases_and_norms_are_not_decayed_and_the_frozen_not_trained(embedder: Embedder):
    optimizer = make_optimizer(embedder, learning_rate=1e-3, weight_decay=0.01)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay.get(id(p)) for name, p in embedder.named_parameters()}
    assert {name for name, value in found.items() if value is None} == {
        "model.0.model.pooler.dense.weight",
        "model.0.model.pooler.dense.bias",
    }
    not_decayed = {name for name, value in found.items() if value == 0}
    assert not_decayed == {n for n in found if n.endswith(("bias", "LayerNorm.weight")) and ".pooler." not in n}
    assert {value for value in found.values() if value} == {0.01}


def line(gradient: Sequence[float]) -> tuple[nn.Linear, torch.optim.SGD]:
    """A line of weights 0, 0 with this gradient, and plain gradient descent at a rate that `update` must replace."""
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    module.weight.grad = torch.tensor([gradient])
    return module, torch.optim.SGD(module.parameters(), lr=100.0)


@pytest.mark.parametrize(
    ("clip", "weights"),
    [(1.0, [-0.3, -0.4]), (None, [-1.5, -2.0]), (10.0, [-1.5, -2.0])],
    ids=["clipped", "off", "below the limit"],
)
def test_update_clips_steps_and_clears(clip: float | None, weights: list[float]):
    module, optimizer = line([3.0, 4.0])
    norm = update(optimizer, module, learning_rate=0.5, gradient_clip=clip)
    assert float(norm) == pytest.approx(5)
    assert module.weight.detach().flatten().tolist() == pytest.approx(weights, abs=1e-5)
    assert module.weight.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_not_finite_raises_and_changes_nothing(bad: float, clip: float | None):
    module, optimizer = line([bad, 1.0])
    with pytest.raises(FloatingPointError, match=r"lower train\.learning_rate"):
        update(optimizer, module, learning_rate=0.5, gradient_clip=clip)
    assert module.weight.detach().flatten().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("step", "warmup", "rate"),
    [
        (0, 4, 0.5), (1, 4, 1.0), (3, 4, 2.0),  # warm-up: quarters of the peak
        (4, 4, 2.0), (7, 4, 1.0), (9, 4, 1 / 3),  # decay: sixths of it
        (0, 0, 2.0), (9, 0, 0.2),  # no warm-up
        (0, 10, 0.2), (9, 10, 2.0), (9, 20, 1.0),  # nothing but warm-up
    ],
)  # fmt: skip
def test_learning_rate_by_hand(step: int, warmup: int, rate: float):
    assert learning_rate_at(step, peak=2.0, warmup_steps=warmup, steps=10) == pytest.approx(rate)


def test_one_look_up_of_a_batchs_pieces_gives_the_gradient_of_a_look_up_a_micro_batch(embedder: Embedder):
    """In every parameter: the gradient of the vocabulary's matrix is the sum over micro-batches in either way."""
    batch = make_batch(0)
    tokens = batch.query_tokens + batch.passage_tokens
    assert len(embedder.micro_batches(tokens)) > 2
    weights = torch.linspace(-1, 1, len(tokens))[:, None]

    def gradients(look_ups: int) -> dict[str, torch.Tensor]:
        embedder.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        if look_ups == 1:
            vectors = embedder(tokens)
        else:
            parts = embedder.micro_batches(tokens)
            vectors = torch.cat([embedder(tokens[part], [np.arange(len(part))]) for part in parts])
            vectors = vectors[torch.from_numpy(np.argsort(np.concatenate(parts)))]
        (vectors * weights).square().sum().backward()
        return {name: p.grad.clone() for name, p in embedder.named_parameters() if p.grad is not None}

    once, each = gradients(1), gradients(2)
    assert once.keys() == each.keys()
    for name, gradient in once.items():
        torch.testing.assert_close(gradient, each[name], msg=name)
    assert "forward" not in vars(embedder.model[0].model.get_input_embeddings())  # nothing of it stays


def test_the_vocabularys_gradient_of_a_cached_step_is_made_once(embedder: Embedder):
    """It is as large as the matrix: beside each micro-batch's activations it would be the most of a step's memory."""
    pieces = embedder.model[0].model.get_input_embeddings().weight
    batch, made = make_batch(0), []
    assert len(embedder.micro_batches(batch.query_tokens + batch.passage_tokens)) > 2
    handle = pieces.register_post_accumulate_grad_hook(lambda _: made.append(1))
    backward(embedder, batch, LossSettings(0.1, False, "in_batch", cached=True), 0, 1)
    handle.remove()
    embedder.zero_grad(set_to_none=True)
    assert len(made) == 1
