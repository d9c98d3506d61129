"""What is written of an encoder: names that other servers know, and nothing that changes the encoder.

The readers' rules stand in other_servers.py; test_older_versions.py opens the folders with older libraries themselves.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import (
    TEXTS,
    make_bert,
    make_labse,
    make_modernbert,
    make_preset,
    make_qwen_embedding,
    make_xlm_roberta,
)
from other_servers import text_embeddings_inference, vllm
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.portable import rename_tokenizer, save_encoder
from hybrid_ir.encoders.space import space_of

PREFIXES = {"query": "query: ", "document": "passage: "}
MAKERS = {
    "preset": (make_preset, "mean"),
    "xlm_roberta": (make_xlm_roberta, "mean"),
    "bert": (make_bert, "cls"),
    "max": (make_bert, "max"),
    "labse": (make_labse, "cls"),
    "modernbert": (make_modernbert, "mean"),
    "qwen": (make_qwen_embedding, "mean"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, SentenceTransformer]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: load_encoder(
            str(make(folder / name)), pooling=pooling, query_prefix="query: ", passage_prefix="passage: ", max_tokens=18
        )
        for name, (make, pooling) in MAKERS.items()
    }


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    for name, model in models.items():
        save_encoder(model, folder / name)
    return {name: folder / name for name in models}


@pytest.mark.parametrize("name", MAKERS)
def test_the_written_folder_is_the_same_encoder(models, saved, name):
    """The space id, every part of it, and the vectors; a second writing changes nothing."""
    again = load_encoder(str(saved[name]))
    assert space_of(again) == space_of(models[name])
    for role in ("query", "document"):
        ours = encode(models[name], TEXTS, role=role, precision="fp32")
        assert np.array_equal(ours, encode(again, TEXTS, role=role, precision="fp32"))
    before = {file: file.read_bytes() for file in saved[name].rglob("*.json")}
    save_encoder(again, saved[name])
    assert {file: file.read_bytes() for file in saved[name].rglob("*.json")} == before


def test_a_folder_of_the_library_alone_has_the_same_space(models, tmp_path):
    """Checkpoints and indices that were written before stay what they are."""
    models["labse"].save_pretrained(str(tmp_path), create_model_card=False)
    assert space_of(load_encoder(str(tmp_path))) == space_of(models["labse"])


@pytest.mark.parametrize(
    ("name", "pooling", "dense"),
    [
        ("preset", "mean", ()),
        ("xlm_roberta", "mean", ()),
        ("bert", "cls", ()),
        ("labse", "cls", ("2_Dense",)),
        ("modernbert", "mean", ()),
        ("qwen", "last", ()),
    ],
)
def test_other_servers_pool_normalise_and_cut_as_we_do(saved, name, pooling, dense):
    expected = {"pooling": pooling, "max_tokens": 18, "normalised": True, "dense": dense}
    assert text_embeddings_inference(saved[name]).model_dump() == {**expected, "prompts": PREFIXES}
    for version in ("old", "new"):
        assert vllm(saved[name], version).model_dump() == {**expected, "prompts": {}}


def test_pooling_by_the_maximum_is_refused_by_the_one_and_unknown_to_the_other(saved):
    """Neither has it. The docs say so: it is no fault of the folder."""
    with pytest.raises(ValueError, match="not supported"):
        text_embeddings_inference(saved["max"])
    assert {vllm(saved["max"], version).pooling for version in ("old", "new")} == {"default"}


def test_the_rules_written_down_find_the_librarys_own_folder_wanting(models, tmp_path):
    """They are rules: what sentence-transformers writes by itself breaks them, as it broke the servers."""
    models["bert"].save_pretrained(str(tmp_path), create_model_card=False)
    with pytest.raises(ValidationError, match="pooling_mode_cls_token"):
        text_embeddings_inference(tmp_path)
    assert vllm(tmp_path, "old").model_dump() == {
        "pooling": "default", "max_tokens": 40, "normalised": False, "dense": (), "prompts": {},
    }  # fmt: skip


def test_no_key_is_written_that_older_versions_refuse(saved):
    """sentence-transformers 2.7 hands these files to constructors, which take no other names."""
    labse = saved["labse"]
    assert json.loads((labse / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 18, "do_lower_case": False,
    }  # fmt: skip
    assert json.loads((labse / "1_Pooling" / "config.json").read_text()) == {
        "word_embedding_dimension": 32,
        "pooling_mode": "cls",
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
    }
    assert set(json.loads((labse / "2_Dense" / "config.json").read_text())) == {
        "in_features", "out_features", "bias", "activation_function",
    }  # fmt: skip


@pytest.mark.parametrize("modes", [("cls", "mean"), ("mean_sqrt_len_tokens", "lasttoken")])
def test_several_poolings_side_by_side_survive(models, tmp_path, modes):
    """32 numbers of each mode: 64, in the order of sentence-transformers."""
    models["max"].save_pretrained(str(tmp_path / "a"), create_model_card=False)
    file = tmp_path / "a" / "1_Pooling" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pooling_mode": list(modes)}))
    model = load_encoder(str(tmp_path / "a"))
    save_encoder(model, tmp_path / "b")
    again = load_encoder(str(tmp_path / "b"))
    assert set(again[1].pooling_mode) == set(modes)
    assert space_of(again)["dimension"] == 64
    assert space_of(again) == space_of(model)


def test_what_is_not_the_default_is_written(models, tmp_path):
    """Left out, it would be read as the default: then no old version could read the folder, and none should."""
    models["labse"].save_pretrained(str(tmp_path / "a"), create_model_card=False)
    dense = tmp_path / "a" / "2_Dense" / "config.json"
    dense.write_text(json.dumps({**json.loads(dense.read_text()), "activation_function": "torch.nn.ReLU"}))
    model = load_encoder(str(tmp_path / "a"))
    model[0].processing_kwargs = {"text": {"add_special_tokens": False}}
    model[2].module_output_name = "projected"
    save_encoder(model, tmp_path / "b")
    written = json.loads((tmp_path / "b" / "2_Dense" / "config.json").read_text())
    assert (written["module_output_name"], written["activation_function"]) == (
        "projected", "torch.nn.modules.activation.ReLU",
    )  # fmt: skip
    of_the_text = json.loads((tmp_path / "b" / "sentence_bert_config.json").read_text())
    assert of_the_text["processing_kwargs"] == {"text": {"add_special_tokens": False}}


def test_rotary_angles_are_said_in_both_languages(saved):
    """Full attention turns by 160, the window by 20; transformers 4 has two names of its own for them."""
    config = json.loads((saved["modernbert"] / "config.json").read_text())
    assert (config["global_rope_theta"], config["local_rope_theta"]) == (160.0, 20.0)
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 160.0
    assert load_encoder(str(saved["modernbert"]))[0].config.rope_parameters == config["rope_parameters"]


@pytest.mark.parametrize("name", ["preset", "bert"])
def test_the_tokenizers_class_is_one_that_transformers_4_has(saved, name):
    config = json.loads((saved[name] / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "attention_mask" in config["model_input_names"]


def test_a_fresh_presets_own_folder_has_it_too(tmp_path):
    make_preset(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_tokenizers_additional_tokens_stay_its_own(tmp_path):
    """transformers 5 writes a list where transformers 4 wants a mapping, and falls over it."""
    tokenizer = AutoTokenizer.from_pretrained(make_bert(tmp_path / "a"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<q>", "<d>"]})
    tokenizer.save_pretrained(tmp_path / "b")
    assert isinstance(json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())["extra_special_tokens"], list)
    rename_tokenizer(tokenizer, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in config
    assert config["additional_special_tokens"] == ["<q>", "<d>"]
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "b")
    assert again.extra_special_tokens == ["<q>", "<d>"]
    assert again("a <q> b")["input_ids"] == tokenizer("a <q> b")["input_ids"]


def test_the_weights_are_safetensors_and_no_pickle_is_beside_them(saved):
    for folder in saved.values():
        assert (folder / "model.safetensors").is_file()
        assert not list(folder.rglob("*.bin"))
    assert (saved["labse"] / "2_Dense" / "model.safetensors").is_file()
    assert torch.equal(
        load_encoder(str(saved["labse"]))[2].linear.bias, SentenceTransformer(str(saved["labse"]))[2].linear.bias
    )
