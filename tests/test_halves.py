"""The layers in two halves at once: the vectors and gradients of the whole, and dropout that repeats itself."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import numpy as np
import pytest
import torch
from test_packed import make, texts_of, token_vectors
from torch import Tensor

from hybrid_ir.encoders.packed import forward, halves

pytestmark = pytest.mark.numbers

LENGTHS = (3, 4, 4, 7, 8, 9, 9, 20, 33)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And halves of few tokens too."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(halves, "TOKENS_A_HALF", 10)
    yield
    torch.set_num_threads(before)


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "middle_of", lambda *_: None)


def passed(model, toward: Tensor) -> list[Tensor]:
    """Vectors of all tokens, and the gradients of all parameters."""
    model.zero_grad()
    vectors = token_vectors(model, texts_of(LENGTHS), torch.float64)
    (vectors * toward).sum().backward()
    return [vectors.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ["BERT", "XLM-R"])
@pytest.mark.parametrize("frozen", [False, True])
def test_vectors_and_gradients_are_those_of_the_whole(name: str, frozen: bool, monkeypatch: pytest.MonkeyPatch):
    model, toward = make(name, dtype=torch.float64), torch.randn(sum(LENGTHS), 16, dtype=torch.float64)
    if frozen:  # one matrix, and one norm
        model.encoder.layer[0].attention.self.key.weight.requires_grad_(False)
        model.encoder.layer[1].output.LayerNorm.requires_grad_(False)
    assert halves.middle_of(np.asarray(LENGTHS), torch.device("cpu"))
    ours = passed(model, toward)
    whole(monkeypatch)
    plain = passed(model, toward)
    assert len(ours) == len(plain) > 30
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_dropout_repeats_itself_and_differs_between_the_halves():
    model, toward = make("BERT", dropout=0.3, dtype=torch.float64), torch.ones(sum(LENGTHS), 16, dtype=torch.float64)

    def run(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return passed(model, toward)

    first, again = run(1), run(1)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], run(2)[0])
    # Two equal texts, one in each half.
    tokens = texts_of((20, 20))
    tokens.flat[20:] = tokens.flat[:20]
    assert halves.middle_of(tokens.lengths, torch.device("cpu")) == 1
    one, other = token_vectors(model, tokens, torch.float64).split(20)
    assert not torch.equal(one, other)
    model.eval()
    one, other = token_vectors(model, tokens, torch.float64).split(20)
    assert torch.equal(one, other)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_vectors_are_those_of_the_whole(mode, monkeypatch: pytest.MonkeyPatch):
    model = make("XLM-R", dtype=torch.float64).eval()
    with mode():
        ours = token_vectors(model, texts_of(LENGTHS), torch.float64)
        whole(monkeypatch)
        plain = token_vectors(model, texts_of(LENGTHS), torch.float64)
    assert not ours.requires_grad
    assert ours.is_inference() == plain.is_inference()
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)


def test_the_threads_of_others_stay_as_they_are():
    model = make("BERT", dtype=torch.float64).eval()
    token_vectors(model, texts_of(LENGTHS), torch.float64)
    assert torch.get_num_threads() == 2
    counts: list[int] = []
    thread = Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counts == [2]


def test_an_error_in_one_half_is_raised():
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    x = torch.zeros(4, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="no memory"):
        halves.in_halves(x, 2, (lambda part: part, fails), [])


@pytest.mark.parametrize(
    ("lengths", "threads"), [(LENGTHS, 1), (LENGTHS, 3), ((2, 3), 2), ((40,), 2)], ids=["one", "three", "few", "text"]
)
def test_what_cannot_be_halved_is_not(lengths: tuple[int, ...], threads: int):
    torch.set_num_threads(threads)
    assert halves.middle_of(np.asarray(lengths), torch.device("cpu")) is None
    assert halves.middle_of(np.asarray(LENGTHS), torch.device("cuda")) is None
