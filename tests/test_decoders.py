"""Decoders as encoders: Qwen3-Embedding's layout, its last token's vector, and attention that never looks ahead."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_decoder, make_qwen_embedding
from sentence_transformers import SentenceTransformer
from training_runs import experiment
from training_store import make_store
from transformers import AutoModel, AutoTokenizer

from hybrid_ir.encoders.derived.vocabulary import trim_vocabulary
from hybrid_ir.encoders.embedding import Embedder, encode, freeze_unused
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.packed import can_pack
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.encoders.space import space_of
from hybrid_ir.encoders.tokens import TextReader, Tokens
from hybrid_ir.types import InputError

pytestmark = pytest.mark.numbers

LENGTHS = [*TEXTS, "a", "Paris", " ".join(TEXTS) * 3]
"""Texts of 1 to some 400 tokens, in one batch."""


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request, tmp_path_factory) -> Path:
    return make_qwen_embedding(tmp_path_factory.mktemp("decoder") / "model", request.param)


def plainly(folder: Path, max_tokens: int) -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = max_tokens
    return model


def test_vectors_are_those_of_sentence_transformers_which_pads_on_the_left(folder: Path):
    """In one batch of texts of all lengths, and each alone: padding is nothing to either."""
    model = load_encoder(str(folder))
    assert model.tokenizer.padding_side == "left"
    plain = plainly(folder, model.max_seq_length)
    texts = [TextReader.of(model).plain(text) for text in LENGTHS]
    for role, theirs in (("query", plain.encode_query), ("document", plain.encode_document)):
        ours = encode(model, LENGTHS, role=role, precision="fp32")
        assert (ours @ ours.T).min() < 0.9  # not all of them one vector
        assert np.abs(ours - theirs(texts, batch_size=len(texts))).max() < 1e-5
        assert np.abs(ours - np.stack([theirs([text])[0] for text in texts])).max() < 1e-5


def test_the_vector_is_that_of_the_end_token_behind_the_prompt(folder: Path):
    """Qwen3-Embedding's recipe written out: a prompt for queries alone, the last token's state, unit length."""
    decoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    model = load_encoder(str(folder))
    for role, prefix in (("query", prompt), ("document", "")):
        tokens = tokenizer(prefix + TEXTS[0], return_tensors="pt")
        assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])[-1] == "<|endoftext|>"
        with torch.no_grad():
            last = decoder(**tokens).last_hidden_state[0, -1]
        expected = (last / last.norm()).numpy()
        np.testing.assert_allclose(encode(model, TEXTS[:1], role=role, precision="fp32")[0], expected, atol=1e-6)


def test_a_text_that_is_cut_keeps_its_end_token(folder: Path):
    model = load_encoder(str(folder), max_tokens=20)
    tokens = TextReader.of(model).read([LENGTHS[-1], "a"], "document")
    assert tokens.lengths.tolist() == [20, 2]
    assert {int(row[-1]) for row in tokens} == {model.tokenizer.pad_token_id}  # of Qwen's both are <|endoftext|>


def test_no_token_sees_what_is_behind_it(folder: Path):
    """By the first token's vector, which of an encoder would be another one for another text."""
    model = load_encoder(str(make_decoder(folder.parent / "plain", json_kind(folder))), pooling="cls", query_prefix="")
    assert not can_pack(model[0].model, None)  # which would attend both ways
    first = encode(model, ["Paris is the capital", "Paris", "Paris était"], role="query", precision="fp32")
    assert np.abs(first - first[0]).max() < 1e-6
    embedder = Embedder(model, precision="fp32", micro_batch_tokens=None).train()
    with torch.no_grad():
        trained = embedder(Tokens.of([[5, 6, 7, 8], [5, 6], [5, 9, 9, 9, 9, 9]]))
    assert (trained - trained[0]).abs().max() < 1e-6


def json_kind(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def test_lasttoken_of_a_plain_folder_is_the_one_asked_for(folder: Path, tmp_path: Path):
    plain = load_encoder(str(make_decoder(tmp_path / "plain", json_kind(folder))), pooling="lasttoken", query_prefix="")
    whole = load_encoder(str(folder), query_prefix="")
    ours, theirs = (encode(model, LENGTHS, role="query", precision="fp32") for model in (plain, whole))
    np.testing.assert_array_equal(ours, theirs)


def test_the_gradient_of_a_batch_is_that_of_its_texts_one_by_one(folder: Path):
    found = []
    for budget, recompute in ((10_000, False), (16, False), (10_000, True)):
        model = load_encoder(str(folder))
        embedder = Embedder(model, precision="fp32", micro_batch_tokens=budget, recompute=recompute).train()
        assert freeze_unused(embedder) == []
        tokens = TextReader.of(model).read(LENGTHS[:10], "document")
        vectors = embedder(tokens)
        (vectors * torch.linspace(-1, 1, vectors.numel()).view(vectors.shape)).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_the_space_id_knows_pooling_prompt_and_end_token(folder: Path, tmp_path: Path):
    model = load_encoder(str(folder))
    save_encoder(model, tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"))
    assert space_of(again) == space_of(model)
    assert again.tokenizer.padding_side == "left"  # for who pads by it
    ours = encode(model, LENGTHS, role="query", precision="fp32")
    theirs = plainly(tmp_path / "saved", model.max_seq_length).encode_query(
        [TextReader.of(model).plain(text) for text in LENGTHS]
    )
    assert np.abs(ours - theirs).max() < 1e-5

    pooling = tmp_path / "saved" / "1_Pooling" / "config.json"
    said = json.loads(pooling.read_text())
    changed = {**said, "pooling_mode": "mean", "pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    pooling.write_text(json.dumps(changed))
    assert space_of(load_encoder(str(tmp_path / "saved")))["id"] != space_of(model)["id"]
    pooling.write_text(json.dumps(said))
    tokenizer = tmp_path / "saved" / "tokenizer.json"
    endless = json.loads(tokenizer.read_text())
    endless["post_processor"] = None
    tokenizer.write_text(json.dumps(endless))
    assert space_of(load_encoder(str(tmp_path / "saved")))["id"] != space_of(model)["id"]


def test_a_vocabulary_is_cut_without_a_change_of_the_vectors(folder: Path, tmp_path: Path):
    whole, cut = load_encoder(str(folder)), load_encoder(str(folder))
    trimmed = trim_vocabulary(cut, TEXTS[:3])
    assert trimmed.kept < trimmed.of
    save_encoder(cut, tmp_path / "cut")
    ours, theirs = (
        encode(each, TEXTS[:3], role="query", precision="fp32") for each in (whole, load_encoder(str(tmp_path / "cut")))
    )
    np.testing.assert_array_equal(ours, theirs)


def test_8_bits_are_refused_for_a_decoder(folder: Path):
    with pytest.raises(InputError, match=r"8 bits are for BERT, RoBERTa and XLM-R on a CPU; here are Qwen\dModel"):
        Embedder(load_encoder(str(folder)), precision="int8", micro_batch_tokens=None, frozen=True)


@pytest.mark.slow
def test_a_decoder_is_trained_and_its_checkpoint_opens_in_sentence_transformers(tmp_path: Path, ray_cluster):
    """docs/train.md, "Decoders", on a small Qwen3."""
    from hybrid_ir.training.run import train

    make_store(tmp_path / "store", n=120)
    folder = make_qwen_embedding(tmp_path / "qwen")
    asked = [f"encoder.name={folder}", "encoder.max_tokens=200", "train.steps=12", "train.evaluate_every=6"]
    train(experiment(tmp_path / "store", tmp_path / "run", *asked, "train.gradient_checkpointing=true"), ray_cluster)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["encoder"]["pooling"] == "lasttoken"
    trained = load_encoder(str(tmp_path / "run" / "checkpoint"))
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = [row["loss"] for row in losses if "loss" in row]
    assert told[-1] < told[0]
    ours = encode(trained, LENGTHS, role="query", precision="fp32")
    plain = SentenceTransformer(str(tmp_path / "run" / "checkpoint"), device="cpu")
    texts = [TextReader.of(trained).plain(text) for text in LENGTHS]
    assert np.abs(ours - plain.encode_query(texts)).max() < 1e-5
    assert np.abs(ours - encode(load_encoder(str(folder)), LENGTHS, role="query", precision="fp32")).max() > 0.01
