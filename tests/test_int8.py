"""Encoding in 8 bits: products that can be checked by hand, vectors near those of fp32, and the refusal of others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_preset
from indices import sample_passages, write_served_index
from torch import nn

from hybrid_ir.encoders import Embedder, TextReader, load_encoder
from hybrid_ir.encoders.packed.linear import Joined8
from hybrid_ir.index import IndexedPassage, read_manifest
from hybrid_ir.serving.int8_loss import LEAST_COSINE, check_loss, measure_loss, sample_of_index
from hybrid_ir.serving.query_encoder import QueryEncoder
from hybrid_ir.types import InputError


def test_a_product_in_8_bits_is_what_it_is_by_hand():
    """Weights of whole 127ths have no rounding error, and neither have such inputs."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, 1.0], [2.0, -254.0]]))  # scales 1 and 2
        layer.bias.copy_(torch.tensor([0.5, -0.5]))
    x = torch.tensor([[127.0, 2.0], [0.0, 0.0], [-12.7, 12.7]])  # scales 1, none, 0.1
    expected = torch.tensor([[127 * 127 + 2.5, 254 - 508 - 0.5], [0.5, -0.5], [-1612.9 + 12.7 + 0.5, -3251.7]])
    torch.testing.assert_close(Joined8([layer])(x), expected, rtol=1e-5, atol=1e-3)


def test_a_text_does_not_move_with_its_company():
    """Each token has a scale of its own: a loud neighbour in the batch changes no row."""
    layer = nn.Linear(8, 4)
    quiet, loud = torch.randn(1, 8), 1000 * torch.randn(1, 8)
    joined = Joined8([layer])
    assert torch.equal(joined(quiet)[0], joined(torch.cat([quiet, loud]))[0])


def test_vectors_in_8_bits_are_near_those_of_fp32_and_not_the_same(tmp_path):
    model = load_encoder(str(make_preset(tmp_path / "model"))).eval()
    tokens = TextReader.of(model).read(TEXTS, "query")
    with torch.inference_mode():
        whole, int8 = (
            Embedder(model, precision=p, micro_batch_tokens=512, frozen=True)(tokens) for p in ("fp32", "int8")
        )
    cosines = (whole * int8).sum(1)
    assert cosines.min() > 0.99
    assert (whole - int8).abs().max() > 1e-5  # it was in 8 bits


def test_there_is_no_gradient_in_8_bits(tmp_path):
    model = load_encoder(str(make_preset(tmp_path / "model"))).eval()
    embedder = Embedder(model, precision="int8", micro_batch_tokens=512)
    with pytest.raises(ValueError, match=r"8 bits have no gradient"):
        embedder(TextReader.of(model).read(TEXTS, "query"))


def test_a_language_that_loses_too_much_is_named():
    check_loss("index", {"de": LEAST_COSINE, "en": 1.0})
    with pytest.raises(InputError, match=r"less in th \(0\.9900\), zh \(nan\); .*serve\.precision=fp32"):
        check_loss("index", {"de": 0.999, "th": 0.99, "zh": float("nan")})


def test_an_encoder_that_does_not_bear_8_bits_is_not_served(tmp_path, monkeypatch):
    """Half of the inputs of each matrix are lost, as sums that overflow would lose them; fp32 is served as before."""
    folder = tmp_path / "index"
    write_served_index(folder, sample_passages())
    manifest = read_manifest(folder)
    texts = sample_of_index(str(folder), manifest)
    assert set(texts) == set(manifest.languages)
    before = QueryEncoder(str(folder), manifest, None, 1)(["Where?"], "query").vectors
    int8 = QueryEncoder(str(folder), manifest, None, 1, "int8")(["Where?"], "query").vectors
    assert 0.99 < float((before * int8).sum()) < 1.0 - 1e-9
    monkeypatch.setattr(Joined8, "__init__", _spoilt(Joined8.__init__))
    with pytest.raises(InputError, match=r"mean cosine .* less in .*serve\.precision=fp32"):
        QueryEncoder(str(folder), manifest, None, 1, "int8")
    assert np.array_equal(QueryEncoder(str(folder), manifest, None, 1)(["Where?"], "query").vectors, before)


def test_a_sample_has_texts_of_each_language_from_its_passages_alone(tmp_path):
    passages = [*sample_passages(), *(IndexedPassage(f"x{n}", f"Text {n}.", "en") for n in range(5000))]
    write_served_index(tmp_path / "index", passages)
    manifest = read_manifest(tmp_path / "index")
    for file in (tmp_path / "index" / "shards").rglob("*.*"):
        if file.name != "passages.arrow":
            file.unlink()
    texts = sample_of_index(f"file://{tmp_path}/index", manifest)
    assert texts == sample_of_index(str(tmp_path / "index"), manifest)
    assert set(texts) == set(manifest.languages)
    assert len(set(texts["en"])) == len(texts["en"]) == 32
    for language, some in texts.items():
        assert set(some) <= {passage.text for passage in passages if passage.language == language}
    for file in (tmp_path / "index" / "shards").rglob("passages.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"passages\.arrow cannot be read .*; build the index again"):
        sample_of_index(str(tmp_path / "index"), manifest)


def test_the_loss_is_measured_in_each_language(tmp_path):
    model = load_encoder(str(make_preset(tmp_path / "model"))).eval()
    whole = Embedder(model, precision="fp32", micro_batch_tokens=512, frozen=True)
    with torch.inference_mode():
        same = measure_loss(TextReader.of(model), whole, whole, {"en": TEXTS[:2], "de": TEXTS[3:4]})
    assert same == pytest.approx({"en": 1.0, "de": 1.0}, abs=1e-6)


def _spoilt(initialise):
    def spoil(self, layers):
        initialise(self, layers)
        self._matrix[::2] = 0

    return spoil
