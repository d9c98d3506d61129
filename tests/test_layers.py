"""A shallower encoder: which layers stay, and that its folder says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_bert, make_modernbert, make_qwen_embedding, make_xlm_roberta
from transformers import BertConfig, BertModel

from hybrid_ir.encoders import encode, keep_layers, load_encoder, save_encoder
from hybrid_ir.types import InputError


def marked(folder: Path, layers: int) -> Path:
    """A BERT whose layer n has n in its first bias."""
    make_bert(folder)
    config = BertConfig.from_pretrained(folder)
    config.num_hidden_layers = layers
    model = BertModel(config)
    for n, layer in enumerate(model.encoder.layer):
        torch.nn.init.constant_(layer.output.dense.bias, n)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("keep", "stay"), [(12, range(12)), (4, [0, 4, 7, 11]), (2, [0, 11]), (1, [0])])
def test_layers_that_stay_are_evenly_spaced_with_the_first_and_the_last(tmp_path: Path, keep: int, stay):
    model = load_encoder(str(marked(tmp_path / "whole", 12)))
    keep_layers(model, keep)
    model.save(str(tmp_path / "less"))
    loaded = load_encoder(str(tmp_path / "less"))[0].model
    assert [layer.output.dense.bias[0].item() for layer in loaded.encoder.layer] == list(stay)
    assert loaded.config.num_hidden_layers == keep


@pytest.mark.parametrize("make", [make_modernbert, make_qwen_embedding])
def test_layers_of_several_kinds_keep_their_kind_in_the_folder(tmp_path: Path, make):
    """ModernBERT's attend to the whole text and near by in turn; both it and Qwen say of each layer which it is."""
    model = load_encoder(str(make(tmp_path / "whole")), max_tokens=60)
    kinds = model[0].config.layer_types
    keep_layers(model, 1 + len(kinds) // 2)
    kept = [0, 2, 3] if len(kinds) == 4 else [0, 1]
    save_encoder(model, tmp_path / "less")
    loaded = load_encoder(str(tmp_path / "less"))
    assert loaded[0].config.layer_types == [kinds[n] for n in kept]
    np.testing.assert_array_equal(*(encode(each, TEXTS, role="query", precision="fp32") for each in (model, loaded)))


def test_more_layers_than_there_are_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"encoder\.layers=3, and the encoder has 2"):
        keep_layers(load_encoder(str(make_xlm_roberta(tmp_path / "whole"))), 3)
