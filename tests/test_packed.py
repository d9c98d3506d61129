"""The packed forward pass: the vectors and gradients of transformers, and dropout as it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_bert, make_modernbert, make_xlm_roberta
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from hybrid_ir.encoders import packed
from hybrid_ir.encoders.embedding import Embedder, encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.packed import can_pack, weights_as_used
from hybrid_ir.encoders.packed.dropout import Dropout
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.training.step import make_optimizer, update
from hybrid_ir.types import InputError

pytestmark = pytest.mark.numbers

FAMILY = {
    "BERT": (BertConfig, BertModel),
    "RoBERTa": (RobertaConfig, RobertaModel),
    "XLM-R": (XLMRobertaConfig, XLMRobertaModel),
}
LENGTHS = [(1,), (5, 5, 5), (3, 4, 4, 7, 8, 9, 9, 20, 33), tuple(range(1, 30))]


def make(name: str, dropout: float = 0.0, dtype: torch.dtype = torch.float32):
    config, model = FAMILY[name]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2}
    chances = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    made = model(config(vocab_size=60, max_position_embeddings=64, **sizes, **chances)).to(dtype).train()
    for parameter in made.parameters():  # biases and norms that do something
        parameter.data += 0.1 * torch.randn(parameter.shape, dtype=dtype)
    return made


def texts_of(lengths: tuple[int, ...]) -> Tokens:
    draw = np.random.default_rng(len(lengths)).integers
    return Tokens.of([draw(5, 60, length) for length in lengths])


def token_vectors(model, tokens: Tokens, dtype: torch.dtype) -> Tensor:
    return packed.token_vectors(model, weights_as_used(model, dtype), tokens)


def padded(model, tokens: Tokens) -> Tensor:
    """What transformers makes of them: the vectors of all tokens that are no padding."""
    ids, mask = (torch.from_numpy(array) for array in tokens.padded(model.config.pad_token_id))
    return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", list(FAMILY))
def test_vectors_and_gradients_are_those_of_transformers(name: str, lengths: tuple[int, ...]):
    model, tokens = make(name, dtype=torch.float64), texts_of(lengths)
    assert can_pack(model, None)
    theirs = padded(model, tokens)
    toward = torch.randn_like(theirs)
    (theirs * toward).sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    model.zero_grad()
    ours = token_vectors(model, tokens, torch.float64)
    (ours * toward).sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for key, p in model.named_parameters():
        assert (p.grad is None) == (gradients[key] is None), key
        if p.grad is not None:
            torch.testing.assert_close(p.grad, gradients[key], rtol=1e-9, atol=1e-11, msg=key)


def test_bf16_keeps_every_tokens_direction():
    model, tokens = make("XLM-R").eval(), texts_of(LENGTHS[2])
    with torch.no_grad():
        exact, close = (token_vectors(model, tokens, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert close.dtype == torch.float32
    assert torch.cosine_similarity(exact, close).min() > 0.999
    assert not torch.equal(exact, close)


def test_gradients_of_bf16_add_up_in_float32():
    model, tokens = make("XLM-R"), texts_of(LENGTHS[2])
    token_vectors(model, tokens, torch.bfloat16).square().sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_steps_below_what_bf16_can_tell_add_up_in_the_weights_of_a_training_in_bf16(tmp_path: Path):
    """The weights are the masters, and what layers compute with are copies in bf16, made anew for each step: ten steps
    of a millionth come near to what they do in fp32. Weights that are themselves in bf16 would stand still."""
    make_xlm_roberta(tmp_path / "encoder")
    tokens = Tokens.of([list(range(5, 5 + n)) for n in (4, 9, 6, 5)])
    moved = {}
    for way in ("fp32", "bf16", "bf16 alone"):
        model = load_encoder(str(tmp_path / "encoder"), dropout=0.0)
        embedder = Embedder(model, precision=way.partition(" ")[0], micro_batch_tokens=None).train()
        matrix = model[0].model.encoder.layer[0].output.dense.weight
        if way == "bf16 alone":
            matrix.data = matrix.data.bfloat16().float()
        before = matrix.detach().clone()
        optimizer = make_optimizer(embedder, 1e-6, 0.0)
        for _ in range(10):
            vectors = embedder(tokens)
            (vectors[:2] * vectors[2:]).sum().backward()
            update(optimizer, embedder, 1e-6, None)
            if way == "bf16 alone":
                matrix.data = matrix.data.bfloat16().float()
        moved[way] = (matrix - before).detach()
    whole = moved["fp32"].norm()
    assert (moved["bf16"] - moved["fp32"]).norm() < 0.5 * whole
    assert (moved["bf16 alone"] - moved["fp32"]).norm() > 0.9 * whole


def test_with_dropout_gradients_are_those_of_the_function_that_was_computed():
    """Numerically, in float64: the masks of the way back are those of the way there."""
    model, tokens = make("BERT", dropout=0.3, dtype=torch.float64), texts_of((2, 3, 3, 4))
    some = model.encoder.layer[0].attention.self.value.weight
    toward = torch.randn(12, 16, dtype=torch.float64)

    def value() -> Tensor:
        torch.manual_seed(7)
        return (token_vectors(model, tokens, torch.float64) * toward).sum()

    value().backward()
    for row, column in ((0, 0), (5, 11), (15, 3)):
        with torch.no_grad():
            values = []
            for shift in (1e-5, -2e-5):
                some[row, column] += shift
                values.append(value())
            some[row, column] += 1e-5
        assert float(some.grad[row, column]) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_as_many_as_it_says_and_keeps_the_mean(p: float):
    drop = Dropout(training=True, device=torch.device("cpu"))
    kept = drop.add(torch.zeros(()), torch.ones(1000, 1001), p)
    values = kept.unique()
    assert values[0] == 0
    assert float(values[1]) == pytest.approx(1 / (1 - p), rel=1e-4)
    assert float((kept == 0).float().mean()) == pytest.approx(p, abs=0.003)
    assert float((kept[:, 1:] * kept[:, :-1]).mean()) == pytest.approx(1, abs=0.02 / (1 - p))  # neighbours apart


def test_dropout_comes_from_torchs_seed_and_is_none_outside_training():
    model, tokens = make("XLM-R", dropout=0.2), texts_of(LENGTHS[2])

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return token_vectors(model, tokens, torch.float32).detach()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    first, second = token_vectors(model, tokens, torch.float32), token_vectors(model, tokens, torch.float32)
    assert not torch.equal(first, second)
    model.eval()
    torch.testing.assert_close(run(1), padded(model, tokens).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_that_are_computed_once_more_have_the_gradients_of_those_that_are_kept(dtype: torch.dtype):
    kept_in = torch.float64 if dtype == torch.float64 else torch.float32
    model, tokens = make("XLM-R", dropout=0.3, dtype=kept_in), texts_of(LENGTHS[2])
    toward = torch.randn(sum(LENGTHS[2]), 16, dtype=kept_in)
    found = []
    for recompute in (False, True):
        model.zero_grad()
        torch.manual_seed(5)
        parts = [packed.token_vectors(model, weights_as_used(model, dtype), tokens, recompute=recompute) for _ in "ab"]
        sum((part * toward).sum() for part in parts).backward()
        after = torch.randint(2**62, ())
        found.append((*parts, after, *(p.grad for p in model.parameters() if p.grad is not None)))
    assert len(found[0]) > 30
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[1][0], found[1][1])


def test_layers_that_transformers_computes_once_more_have_the_same_gradients(tmp_path: Path):
    found = []
    for recompute in (False, True):
        model = load_encoder(str(make_modernbert(tmp_path)), dropout=0.2)
        embedder = Embedder(model, precision="fp32", micro_batch_tokens=None, recompute=recompute).train()
        torch.manual_seed(5)
        embedder(texts_of(LENGTHS[2]))[:, 0].sum().backward()
        found.append([p.grad for p in embedder.parameters() if p.grad is not None])
    assert model[0].auto_model.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_step_is_seen_by_the_next_pass(tmp_path: Path):
    """Copies of the weights that the micro-batches of a pass share are not those of the pass before. (The fused AdamW
    changes a tensor without raising its version.)"""
    model = load_encoder(str(make_xlm_roberta(tmp_path)), dropout=0.0)
    embedder = Embedder(model, precision="fp32", micro_batch_tokens=8).train()
    optimizer, tokens = make_optimizer(embedder, 0.1, 0.0), texts_of((3, 4, 4, 9))
    before = embedder(tokens)
    before[:, 0].sum().backward()
    update(optimizer, embedder, 0.1, None)
    now = embedder(tokens)
    assert (now - before).abs().max() > 0.1
    fresh = Embedder(model, precision="fp32", micro_batch_tokens=None)
    torch.testing.assert_close(now, fresh(tokens), rtol=0, atol=1e-5)


def test_texts_out_of_order_are_refused():
    with pytest.raises(ValueError, match="sorted by length"):
        token_vectors(make("BERT"), texts_of((4, 3)), torch.float32)


def test_what_is_not_plain_is_left_to_transformers(tmp_path: Path):
    class Adapted(torch.nn.Module):
        """As adapters are made: a plain layer within one that adds to what it gives."""

        def __init__(self, plain: torch.nn.Linear) -> None:
            super().__init__()
            self.base_layer, self.weight, self.bias = plain, plain.weight, plain.bias

    assert not can_pack(AutoModel.from_pretrained(make_modernbert(tmp_path)), None)
    changed = make("BERT")
    changed.encoder.layer[0].output.dense = Adapted(changed.encoder.layer[0].output.dense)
    assert not can_pack(changed, None)
    watched = make("BERT")
    watched.encoder.layer[1].register_forward_hook(lambda *_: None)
    assert not can_pack(watched, None)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    assert not can_pack(BertModel(BertConfig(is_decoder=True, **sizes)), None)


def test_encode_packs_where_it_can_and_gives_the_vectors_of_transformers(tmp_path: Path, monkeypatch):
    model = load_encoder(str(make_bert(tmp_path)))
    ours = encode(model, TEXTS, role="query", precision="fp32")
    monkeypatch.setattr("hybrid_ir.encoders.embedding.can_pack", lambda transformer, dtype: False)
    np.testing.assert_allclose(ours, encode(model, TEXTS, role="query", precision="fp32"), atol=1e-6)


def test_flash_attention_is_refused_where_there_is_none(tmp_path: Path):
    model = load_encoder(str(make_xlm_roberta(tmp_path)))
    with pytest.raises(InputError, match=r"flash_attention needs an NVIDIA GPU.* here are cpu, bf16 and XLMRobertaMod"):
        Embedder(model, precision="bf16", micro_batch_tokens=None, flash=True)
