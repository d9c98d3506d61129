"""A vocabulary cut to texts: the same tokens and vectors for those texts, from a smaller encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_bert, make_labse, make_preset, make_unigram
from tokenizers import Tokenizer, models, pre_tokenizers
from training_store import make_store
from transformers import PreTrainedTokenizerFast

from hybrid_ir.config import load_experiment
from hybrid_ir.data import open_store
from hybrid_ir.encoders import TextReader, encode, load_encoder, space_of, trim_vocabulary
from hybrid_ir.training.checkpoint import load_model
from hybrid_ir.training.initial_model import describe_encoder, initial_model
from hybrid_ir.types import InputError

OURS = TEXTS[1:4]


MAKERS = {"Unigram": make_unigram, "BPE": make_preset, "WordPiece": make_bert, "LaBSE": make_labse}


@pytest.mark.parametrize("kind", MAKERS)
def test_texts_that_a_vocabulary_is_cut_to_keep_their_tokens_and_vectors(kind: str, tmp_path: Path):
    model = load_encoder(str(MAKERS[kind](tmp_path / "whole")), query_prefix="query: ", passage_prefix="passage: ")
    vectors = {role: encode(model, OURS, role=role, precision="fp32") for role in ("query", "document")}
    tokens = [model.tokenizer.convert_ids_to_tokens(row) for row in model.tokenizer(OURS)["input_ids"]]
    rows = model[0].model.get_input_embeddings().num_embeddings

    trimmed = trim_vocabulary(model, OURS)
    model.save(str(tmp_path / "cut"))
    cut = load_encoder(str(tmp_path / "cut"))

    assert trimmed.of == rows
    assert trimmed.kept == len(cut.tokenizer) == cut[0].model.get_input_embeddings().num_embeddings < rows
    assert [cut.tokenizer.convert_ids_to_tokens(row) for row in cut.tokenizer(OURS)["input_ids"]] == tokens
    for role, before in vectors.items():
        assert np.abs(encode(cut, OURS, role=role, precision="fp32") - before).max() < 1e-6


@pytest.mark.parametrize("kind", ["Unigram", "BPE", "WordPiece"])
def test_another_text_is_read_in_smaller_pieces_and_stays_readable(kind: str, tmp_path: Path):
    """Its characters are in the vocabulary, so that nothing of it is unknown that was known."""
    model = load_encoder(str(MAKERS[kind](tmp_path / "whole")))
    other = [TEXTS[5], TEXTS[7]]
    before = TextReader.of(model).read(other, "query")
    trim_vocabulary(model, OURS)
    after = TextReader.of(model).read(other, "query")
    assert (after.lengths >= before.lengths).all()
    assert (after.lengths > before.lengths).any()
    assert model.tokenizer.unk_token_id not in after.flat.tolist()


def test_control_tokens_and_the_ids_of_the_config_are_the_new_ones(tmp_path: Path):
    model = load_encoder(str(make_unigram(tmp_path / "whole")))
    trim_vocabulary(model, OURS)
    model.save(str(tmp_path / "cut"))
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    tokenizer = load_encoder(str(tmp_path / "cut")).tokenizer
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (1, 0, 2)
    assert tokenizer.mask_token_id == len(tokenizer) - 1  # it was the last of 221, and still is
    assert tokenizer("Paris")["input_ids"][0] == tokenizer.bos_token_id
    assert config["vocab_size"] == len(tokenizer)


def test_the_space_of_a_cut_encoder_is_another(tmp_path: Path):
    """An index of the whole encoder has vectors of words that the smaller one reads in another way."""
    model = load_encoder(str(make_preset(tmp_path / "whole")))
    before = space_of(model)["id"]
    trim_vocabulary(model, OURS)
    assert space_of(model)["id"] != before


def test_no_text_or_a_tokenizer_of_another_kind_is_refused(tmp_path: Path):
    model = load_encoder(str(make_preset(tmp_path / "whole")))
    with pytest.raises(InputError, match="no text"):
        trim_vocabulary(model, [])
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "Paris": 4}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model[0].processor = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    with pytest.raises(InputError, match="of the kind WordLevel, not Unigram, BPE or WordPiece"):
        trim_vocabulary(model, OURS)


def test_a_training_starts_from_the_cut_encoder_and_says_so(tmp_path: Path):
    """It is made once, and a run that goes on takes the same."""
    store = make_store(tmp_path / "store") and open_store(str(tmp_path / "store"))
    whole = make_unigram(tmp_path / "whole")
    (tmp_path / "run").mkdir()
    experiment = load_experiment(None, [f"encoder.name={whole}", "encoder.trim_vocabulary=true"])

    folder = initial_model(experiment, store, tmp_path / "run", lambda: None)
    model = load_model(experiment, folder, torch.device("cpu"))
    described = describe_encoder(experiment, model)

    assert folder == str(tmp_path / "run" / "initial")
    assert described["vocabulary"] == len(model.tokenizer) < described["vocabulary_before"]
    texts = [text for text in store.texts() if "house" in text]
    before = load_model(load_experiment(None, [f"encoder.name={whole}"]), str(whole), torch.device("cpu"))
    np.testing.assert_allclose(
        encode(model, texts, role="query", precision="fp32"),
        encode(before, texts, role="query", precision="fp32"),
        atol=1e-6,
    )
    weights = (tmp_path / "run" / "initial" / "model.safetensors").stat()
    initial_model(experiment, store, tmp_path / "run", lambda: None)
    assert (tmp_path / "run" / "initial" / "model.safetensors").stat() == weights


def test_a_preset_has_no_vocabulary_to_cut(tmp_path: Path):
    store = make_store(tmp_path / "store") and open_store(str(tmp_path / "store"))
    (tmp_path / "run").mkdir()
    experiment = load_experiment(None, ["encoder.name=tiny", "encoder.trim_vocabulary=true"])
    with pytest.raises(InputError, match="are for pretrained encoders; tiny is made small"):
        initial_model(experiment, store, tmp_path / "run", lambda: None)


def test_a_stores_texts_are_those_of_all_splits(tmp_path: Path):
    make_store(tmp_path / "store")
    texts = set(open_store(str(tmp_path / "store")).texts())
    assert {"where is house7?", "haus7 liegt bei 49"} <= texts
    assert len({text for text in texts if text.startswith("where is")}) == 300  # train, validation and test
