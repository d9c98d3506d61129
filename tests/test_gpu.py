"""What a GPU computes: the packed forward pass, and figures that are read a step late. Runs where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from hybrid_ir.encoders import to_device
from hybrid_ir.encoders.packed import can_pack, token_vectors, weights_as_used
from hybrid_ir.encoders.packed.dropout import Dropout
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.training.figures import Figures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LENGTHS = (1, 3, 4, 4, 7, 8, 9, 9, 20, 33, 60)


def make(dropout: float = 0.0) -> XLMRobertaModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256, "num_hidden_layers": 2}
    chances = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return XLMRobertaModel(XLMRobertaConfig(vocab_size=60, max_position_embeddings=64, **sizes, **chances)).cuda()


def texts() -> Tokens:
    draw = np.random.default_rng(0).integers
    return Tokens.of([draw(5, 60, length) for length in LENGTHS])


def padded(model: XLMRobertaModel, tokens: Tokens) -> Tensor:
    """What transformers makes of them in float32."""
    ids, mask = (torch.from_numpy(array).cuda() for array in tokens.padded(model.config.pad_token_id))
    return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


def packed(model: XLMRobertaModel, tokens: Tokens) -> Tensor:
    return token_vectors(model, weights_as_used(model, torch.bfloat16), tokens)


def test_vectors_and_gradients_are_those_of_transformers_within_bf16():
    model, tokens = make().train(), texts()
    assert can_pack(model, torch.bfloat16)
    exact = padded(model, tokens)
    toward = torch.randn_like(exact)
    (exact * toward).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ours = packed(model, tokens)
    (ours * toward).sum().backward()
    assert torch.cosine_similarity(ours, exact).min() > 0.999
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (name in gradients), name
        if p.grad is None or name.endswith("key.bias"):  # a key's bias changes no softmax: its gradient is noise
            continue
        assert p.grad.dtype == torch.float32
        assert torch.cosine_similarity(p.grad.flatten(), gradients[name].flatten(), dim=0) > 0.99, name


def test_dropout_is_drawn_and_repeats_itself_from_the_generators_state():
    model, tokens = make(0.3).train(), texts()
    torch.manual_seed(1)
    first, second = packed(model, tokens), packed(model, tokens)
    torch.manual_seed(1)
    again = packed(model, tokens)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_layers_that_are_computed_once_more_have_the_gradients_of_those_that_are_kept():
    model, tokens = make(0.3).train(), texts()
    toward = torch.randn(len(tokens.flat), 128).cuda()
    found = []
    for recompute in (False, True):
        model.zero_grad()
        torch.manual_seed(5)
        vectors = token_vectors(model, weights_as_used(model, torch.bfloat16), tokens, recompute=recompute)
        (vectors * toward).sum().backward()
        after = torch.randn((), device="cuda")
        found.append((vectors, after, *(p.grad for p in model.parameters() if p.grad is not None)))
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=0.02, atol=0.02)  # FlashAttention adds in no fixed order


def test_dropout_drops_as_many_as_it_says_and_keeps_the_mean():
    drop = Dropout(training=True, device=torch.device("cuda"))
    kept = drop.add(torch.zeros(()), torch.ones(1000, 1001).cuda(), 0.1)
    assert float((kept == 0).float().mean()) == pytest.approx(0.1, abs=0.003)
    assert float(kept.mean()) == pytest.approx(1, abs=0.003)


def test_a_step_never_has_the_host_wait_for_the_card():
    model = make(0.1)
    tokens = texts()
    for mode in ("default", "error"):  # the first round allocates pinned memory
        torch.cuda.set_sync_debug_mode(mode)
        try:
            vectors = packed(model.train(), tokens)
            vectors.square().sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_fp32_and_other_devices_keep_to_what_transformers_does():
    assert not can_pack(make(), None)
    assert not can_pack(make(), torch.float32)


def test_figures_of_a_step_are_read_in_the_next_one_or_when_they_are_wanted():
    figures = Figures(1, torch.device("cuda"))
    for step in (1, 2, 3):
        loss = to_device(np.array(step / 2, dtype=np.float32), torch.device("cuda"))
        figures.tell({"step": step}, loss, 2 * loss, stop=step == 2, overdue=False)
        told = figures.read()
        assert [each.row["step"] for each in told] == ([step - 1] if step > 1 else [])
        assert [each.stop for each in told] == ([step == 3] if step > 1 else [])
    (last,) = figures.read(now=True)
    assert last.row == {"step": 3, "loss": 1.5, "gradient_norm": 3.0}


def test_a_gradient_that_is_not_finite_raises_when_it_is_read():
    figures = Figures(1, torch.device("cuda"))
    figures.tell({"step": 1}, torch.tensor(1.0).cuda(), torch.tensor(float("nan")).cuda(), stop=False, overdue=False)
    assert figures.read() == []
    with pytest.raises(FloatingPointError, match=r"lower train\.learning_rate"):
        figures.read(now=True)
