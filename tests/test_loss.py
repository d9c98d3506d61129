"""InfoNCE by hand and by plain loops; masks against planted ids. Several ranks: test_step.py."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from hybrid_ir.training.losses.contrastive import (
    contrastive_loss,
    false_negative_mask,
    false_positive_mask,
    false_positive_mask_of_passages,
    gather_rows,
    same_questions,
)
from hybrid_ir.training.losses.logits import Masks

QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PASSAGES = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
NEGATIVES = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])
NONE_2 = torch.zeros(2, 2, dtype=torch.bool)


def loss(queries: Tensor, passages: Tensor, negatives_ND: Tensor | None = None, **options) -> Tensor:
    """The loss of a batch that one rank holds."""
    B, N = len(queries), 0 if negatives_ND is None else len(negatives_ND)
    nothing = {name: torch.zeros(B, n, dtype=torch.bool) for name, n in (("positives_bB", B), ("negatives_bN", N))}
    arguments = {"temperature": 1.0, **{f"false_{name}": mask for name, mask in nothing.items()}} | options
    positives, hard = (arguments.pop(f"false_{name}") for name in ("positives_bB", "negatives_bN"))
    masks = Masks(positives, positives.T, hard)
    return contrastive_loss(
        queries, passages, negatives_ND, start=0, sizes=[B], negative_sizes=[N], masks=masks, **arguments
    )


def loop_loss(
    queries, passages, hard, positives_masked, hard_masked, temperature: float, symmetric: bool, negatives: str
) -> float:
    """The documented formula, one query at a time, in Python floats."""

    def score(a, b) -> float:
        return exp(sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / temperature)

    B = len(queries)
    total = 0.0
    for i in range(B):
        candidates = [score(queries[i], passages[i])]
        if negatives != "triplet":
            candidates += [score(queries[i], passages[j]) for j in range(B) if j != i and not positives_masked[i][j]]
        if negatives != "in_batch":
            candidates += [score(queries[i], hard[j]) for j in range(len(hard)) if not hard_masked[i][j]]
        forward = -log(candidates[0] / sum(candidates))
        if symmetric:
            others = [score(passages[i], queries[j]) for j in range(B) if j != i and not positives_masked[j][i]]
            backward = -log(candidates[0] / (candidates[0] + sum(others)))
            total += (forward + backward) / 2
        else:
            total += forward
    return total / B


# Cosines of q0 and q1 with the two passages: 1, 0.6 and 0, 0.8; with the two hard negatives: 0.8, -1 and 0.6, 0.


def test_two_queries_by_hand():
    # log(1 + e^-0.4) = 0.513015, log(1 + e^-0.8) = 0.371101
    assert float(loss(QUERIES, PASSAGES)) == pytest.approx(0.442058, abs=1e-6)


def test_temperature_divides_the_cosines():
    # log(1 + e^-0.8) = 0.371101, log(1 + e^-1.6) = 0.183901
    assert float(loss(QUERIES, PASSAGES, temperature=0.5)) == pytest.approx(0.277501, abs=1e-6)


def test_symmetric_averages_both_directions_by_hand():
    # backward: log(1 + e^-1) = 0.313262, log(1 + e^-0.2) = 0.598139; mean 0.455700
    assert float(loss(QUERIES, PASSAGES, symmetric=True)) == pytest.approx((0.442058 + 0.455700) / 2, abs=1e-6)


def test_hard_negatives_of_all_rows_compete_by_hand():
    # q0: log(1 + e^-0.4 + e^-0.2 + e^-2) = log 2.624386; q1: log(1 + e^-0.8 + e^-0.2 + e^-0.8) = log 2.717389
    expected = (log(2.624386) + log(2.717389)) / 2
    assert float(loss(QUERIES, PASSAGES, NEGATIVES, negatives="in_batch_and_hard")) == pytest.approx(expected, abs=1e-6)


def test_triplet_competes_with_hard_negatives_alone_by_hand():
    # q0: log(1 + e^-0.2 + e^-2) = log 1.954066; q1: log(1 + e^-0.2 + e^-0.8) = log 2.268060
    expected = (log(1.954066) + log(2.268060)) / 2
    assert float(loss(QUERIES, PASSAGES, NEGATIVES, negatives="triplet")) == pytest.approx(expected, abs=1e-6)


def test_a_masked_passage_is_left_out_of_one_query_alone_by_hand():
    mask = torch.tensor([[False, True], [False, False]])  # p1 answers q0 too: only q1's 0.371101 is left
    assert float(loss(QUERIES, PASSAGES, false_positives_bB=mask)) == pytest.approx(0.371101 / 2, abs=1e-6)


def test_dimensions_average_the_loss_of_whole_vectors_and_of_their_beginnings():
    """Each against the same loss of vectors that were cut and normalised outside."""
    generator = torch.Generator().manual_seed(3)
    queries, passages, hard = torch.nn.functional.normalize(torch.randn(3, 7, 6, generator=generator), dim=-1)
    options = {"temperature": 0.1, "symmetric": True, "negatives": "in_batch_and_hard"}
    parts = [loss(queries, passages, hard, **options)]
    for dimension in (4, 1):
        cut = (torch.nn.functional.normalize(each[:, :dimension], dim=-1) for each in (queries, passages, hard))
        parts.append(loss(*cut, **options))
    ours = loss(queries, passages, hard, **options, dimensions=(4, 1))
    assert float(ours) == pytest.approx(sum(map(float, parts)) / 3, rel=1e-6)
    assert abs(float(parts[0]) - float(ours)) > 0.1


def test_one_dimension_by_hand():
    # q0 is (1), q1 has nothing left of it: zeros; p0 (1), p1 (1). q0: log 2, q1: log 2.
    expected = (0.442058 + 0.693147) / 2
    assert float(loss(QUERIES, PASSAGES, dimensions=(1,))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("negatives", ["in_batch", "in_batch_and_hard", "triplet"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("N", [9, 23])
def test_loss_equals_plain_loops(negatives: str, symmetric: bool, temperature: float, N: int):
    """With a hard negative a row, and with several of some rows: all of them compete for every query."""
    generator = torch.Generator().manual_seed(7)
    B = 9
    vectors = torch.nn.functional.normalize(torch.randn(2 * B + N, 6, generator=generator, dtype=torch.float64), dim=-1)
    queries, passages, hard = vectors.split([B, B, N])
    positives = torch.rand(B, B, generator=generator) < 0.3
    positives.fill_diagonal_(False)
    hard_masked = torch.rand(B, N, generator=generator) < 0.3
    ours = loss(
        queries,
        passages,
        hard,
        false_positives_bB=positives,
        false_negatives_bN=hard_masked,
        temperature=temperature,
        symmetric=symmetric,
        negatives=negatives,
    )
    expected = loop_loss(
        queries, passages, hard, positives.tolist(), hard_masked.tolist(), temperature, symmetric, negatives
    )
    assert float(ours) == pytest.approx(expected, rel=1e-12)


def test_everything_masked_is_no_loss_and_no_gradient():
    queries, passages = QUERIES.clone().requires_grad_(), PASSAGES.clone().requires_grad_()
    value = loss(queries, passages, false_positives_bB=~torch.eye(2, dtype=torch.bool), symmetric=True)
    value.backward()
    assert value == 0
    assert queries.grad is not None
    assert passages.grad is not None
    assert queries.grad.abs().max() == passages.grad.abs().max() == 0


@pytest.mark.parametrize("negatives", ["in_batch_and_hard", "triplet"])
def test_a_hard_negative_masked_for_all_has_no_gradient_and_the_others_have(negatives: str):
    hard = NEGATIVES.clone().requires_grad_()
    mask = torch.tensor([[False, True], [False, True]])
    loss(QUERIES, PASSAGES, hard, false_negatives_bN=mask, negatives=negatives).backward()
    assert hard.grad is not None
    assert hard.grad[1].abs().max() == 0
    assert hard.grad[0].abs().min() > 0


def test_a_masked_passage_gets_the_gradient_of_its_own_query_alone():
    passages = PASSAGES.clone().requires_grad_()
    mask = torch.tensor([[False, True], [False, False]])
    loss(QUERIES, passages, false_positives_bB=mask).backward()
    # q1's row: d/dp1 of -log softmax = -(1 - s) q1 with s = 1 / (1 + e^-0.8) = 0.689974, halved by the mean.
    assert passages.grad is not None
    torch.testing.assert_close(passages.grad[1], torch.tensor([0.0, -(1 - 0.689974) / 2]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sizes", [[], [2, 0]])
def test_a_rank_without_rows_is_refused(sizes: list[int]):
    with pytest.raises(ValueError, match=r"at least one row.*raise batch\.size"):
        contrastive_loss(
            QUERIES,
            PASSAGES,
            None,
            start=0,
            masks=Masks(NONE_2, None, None),
            sizes=sizes,
            temperature=1.0,
        )


def test_one_rank_gathers_its_own_rows():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows, [3]) is rows


# Masks. Languages are columns: 0 = en, 1 = de.


def true_cells(mask: Tensor) -> set[tuple[int, int]]:
    return {(i, j) for i, j in mask.nonzero().tolist()}


def by_ranks(mask_of, B: int) -> Tensor:
    """The mask of a whole batch, which that of three ranks' slices must be."""
    cut = [slice(0, B // 3), slice(B // 3, B - 1), slice(B - 1, B)]
    whole = mask_of(slice(0, B))
    assert torch.equal(torch.cat([mask_of(rows) for rows in cut if rows.start < rows.stop]), whole)
    return whole


def false_positives(ids: Tensor, languages: Tensor, same: Tensor | None = None) -> set[tuple[int, int]]:
    """Cells of the mask, which is that of the passages turned over. `ids` are of one passage a language, or several."""
    ids = ids.reshape(*ids.shape[:2], -1)
    mask = by_ranks(lambda rows: false_positive_mask(ids, languages, rows, same), len(ids))
    turned = by_ranks(lambda rows: false_positive_mask_of_passages(ids, languages, rows, same), len(ids))
    assert torch.equal(turned.T, mask)
    return true_cells(mask)


def false_negatives(ids: Tensor, hard: Tensor, languages: Tensor, same: Tensor | None = None) -> set[tuple[int, int]]:
    ids = ids.reshape(*ids.shape[:2], -1)
    return true_cells(by_ranks(lambda rows: false_negative_mask(ids, hard, languages, rows, same), len(ids)))


def pairs(found: Tensor) -> set[tuple[int, int]]:
    return {(i, j) for i, j in found.tolist()}


def test_nothing_shared_masks_nothing():
    ids = torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert false_positives(ids, torch.tensor([0, 1, 0])) == set()


def test_two_questions_on_one_passage_mask_each_other():
    ids = torch.tensor([[10, 20], [30, 40], [10, 20]])
    assert false_positives(ids, torch.tensor([0, 0, 0])) == {(0, 2), (2, 0)}


def test_a_passage_shared_in_another_language_is_masked():
    # Rows 0 and 1 ask about one paragraph. Row 0's passage is its English version, row 1's the German one: neither id
    # is in the batch twice, and still each answers the other's query.
    ids = torch.tensor([[10, 20], [10, 20], [30, 40]])
    assert false_positives(ids, torch.tensor([0, 1, 1])) == {(0, 1), (1, 0)}


def test_a_group_without_the_others_language_is_masked_one_way():
    # Row 1 has no German passage, so it cannot know that row 0's (in German) is its own; row 0 has both languages.
    ids = torch.tensor([[10, 20], [10, -1]])
    assert false_positives(ids, torch.tensor([1, 0])) == {(0, 1)}


def test_two_missing_passages_are_not_the_same_passage():
    ids = torch.tensor([[10, -1], [30, -1], [-1, 20]])
    assert false_positives(ids, torch.tensor([0, 0, 1])) == set()


def test_one_id_in_two_languages_is_two_passages():
    # Row 0 has passage 10 in English, row 1 passage 10 in German: not compared across columns.
    ids = torch.tensor([[10, 20], [30, 10]])
    assert false_positives(ids, torch.tensor([0, 1])) == set()


def test_a_passage_that_another_group_could_have_drawn_is_masked():
    # Rows 0 and 2 draw passages 10 and 12 of one language. Group 0 has 12 as well, group 2 not 10. Group 1 has 11 in
    # its second place in English, which is row 3's passage, but in German, which is another passage.
    ids = torch.tensor([[[10, 12], [20, -1]], [[30, 11], [40, -1]], [[12, -1], [50, 51]], [[60, -1], [11, 10]]])
    languages = torch.tensor([0, 0, 0, 1])
    assert false_positives(ids, languages) == {(0, 2)}


def test_a_hard_negative_that_is_any_passage_of_a_group_is_masked_for_it():
    ids = torch.tensor([[[10, 12, 13]], [[30, -1, -1]]])
    # Three negatives of row 0 and one of row 1, all in English: the second is a further passage of group 0.
    assert false_negatives(ids, torch.tensor([98, 13, 30, 12]), torch.zeros(4, dtype=torch.long)) == {
        (0, 1),
        (1, 2),
        (0, 3),
    }


def test_a_hard_negative_that_answers_another_query_is_masked_for_it_alone():
    ids = torch.tensor([[10, 20], [30, 40], [50, 60]])
    languages = torch.tensor([0, 1, 0])
    # Row 1's negative (German) is row 0's German passage; row 2's negative is its own passage; row 0's nobody's.
    negatives = torch.tensor([99, 20, 50])
    assert false_negatives(ids, negatives, languages) == {(0, 1), (2, 2)}


def test_a_hard_negative_of_another_language_is_not_masked():
    ids = torch.tensor([[10, 20], [30, 40]])
    assert false_negatives(ids, torch.tensor([99, 20]), torch.tensor([0, 0])) == set()


def test_a_missing_passage_is_no_hard_negative():
    ids = torch.tensor([[10, -1], [30, 40]])
    assert false_negatives(ids, torch.tensor([99, 98]), torch.tensor([0, 1])) == set()


def test_rows_that_ask_the_same_question_are_no_negatives_of_each_other():
    # Rows 0 and 2 ask the same in English, and their answers differ. Row 3 has row 2's passage: it answers row 0 too.
    questions, english = torch.tensor([[1], [2], [1], [3]]), torch.zeros(4, dtype=torch.long)
    passages = torch.tensor([[10], [20], [30], [30]])
    same = same_questions(questions, english)
    assert pairs(same) == {(0, 2), (2, 0)}
    masked = false_positives(passages, english, same)
    assert masked == {(0, 2), (2, 0), (0, 3), (2, 3), (3, 2)}
    # Row 1's hard negative is row 2's passage, which answers row 0.
    negatives = torch.tensor([99, 30, 98, 97])
    assert false_negatives(passages, negatives, english, same) == {(0, 1), (2, 1), (3, 1)}


def test_a_question_is_the_same_in_the_language_that_either_is_asked_in():
    # Row 0 is asked in English and row 1 in German: group 0 has both versions, group 1 only the German one.
    questions = torch.tensor([[1, 2], [-1, 2], [-1, 3]])
    assert pairs(same_questions(questions, torch.tensor([0, 1, 1]))) == {(0, 1), (1, 0)}


def test_masks_made_in_blocks_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch):
    draw = torch.Generator().manual_seed(3)
    ids, questions = torch.randint(-1, 6, (2, 40, 3), generator=draw)
    languages, hard = torch.randint(0, 3, (40,), generator=draw), torch.randint(0, 6, (40,), generator=draw)
    ids[torch.arange(40), languages] = ids[torch.arange(40), languages].clamp(min=0)
    questions[torch.arange(40), languages] = torch.arange(40) // 2

    def all_of_it():
        same = same_questions(questions, languages)
        return same.tolist(), false_positives(ids, languages, same), false_negatives(ids, hard, languages, same)

    at_once = all_of_it()
    assert len(at_once[0]) >= 40
    monkeypatch.setattr("hybrid_ir.training.losses.contrastive._BLOCK", 7)
    assert all_of_it() == at_once


@st.composite
def planted_batches(draw):
    """Groups with passages from a small pool in some of three languages, each batched in one that it has."""
    groups = draw(st.lists(st.dictionaries(st.integers(0, 2), st.integers(0, 4), min_size=1), min_size=2, max_size=8))
    languages = [draw(st.sampled_from(sorted(group))) for group in groups]
    negatives = draw(st.lists(st.integers(0, 4), min_size=len(groups), max_size=len(groups)))
    return groups, languages, negatives


@settings(max_examples=200, deadline=None)
@given(planted_batches())
def test_masked_are_the_planted_ones_and_no_others(batch):
    groups, languages, negatives = batch
    ids = torch.tensor([[group.get(language, -1) for language in range(3)] for group in groups])
    B = range(len(groups))
    shared = {(i, j) for i in B for j in B if i != j and groups[i].get(languages[j]) == groups[j][languages[j]]}
    answered = {(i, j) for i in B for j in B if groups[i].get(languages[j]) == negatives[j]}
    assert false_positives(ids, torch.tensor(languages)) == shared
    assert false_negatives(ids, torch.tensor(negatives), torch.tensor(languages)) == answered
