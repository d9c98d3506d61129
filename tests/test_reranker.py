"""Rerankers: a score for each pair, the same in any company, and what is no reranker says why."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from checkpoints import TEXTS, make_cross_encoder, make_xlm_roberta
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import nn

from hybrid_ir.encoders import load_reranker
from hybrid_ir.types import InputError

PAIRS = [(query, passage) for query in TEXTS[::3] for passage in TEXTS]


@pytest.fixture(scope="module", params=["xlm-roberta", "bert"])
def folder(request, tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("cross") / request.param, request.param)


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("cross") / "model")


@pytest.fixture
def copied(xlm_roberta, tmp_path):
    """A folder to be broken."""
    return shutil.copytree(xlm_roberta, tmp_path / "copied")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_scores_are_those_of_sentence_transformers_without_its_activation(folder):
    other = CrossEncoder(str(folder), device="cpu", activation_fn=nn.Identity())
    reranker = load_reranker(str(folder))
    # Long pairs too: both cut the longer text first, to what the model has positions for.
    pairs = [*PAIRS, (TEXTS[0], TEXTS[1] * 5), (TEXTS[1] * 5, TEXTS[0]), (TEXTS[1] * 5, TEXTS[3] * 5)]
    ours = reranker.scores(pairs)
    assert ours.dtype == np.float32
    assert ours.shape == (len(pairs),)
    assert np.std(ours) > 0.01, "the pairs must differ, or the next line shows nothing"
    np.testing.assert_allclose(ours, [other.predict([pair])[0] for pair in pairs], atol=2e-5)


def test_a_score_does_not_depend_on_what_is_scored_beside_it(folder):
    reranker = load_reranker(str(folder))
    together = reranker.scores(PAIRS)
    np.testing.assert_allclose(together, np.concatenate([reranker.scores([pair]) for pair in PAIRS]), atol=2e-5)
    assert reranker.scores([]).shape == (0,)
    twice = reranker.scores([*PAIRS, *PAIRS[::-1]])
    assert np.array_equal(twice[: len(PAIRS)], twice[len(PAIRS) :][::-1]), "equal pairs tie to the last bit"


def test_a_long_pair_is_cut_to_the_models_length(xlm_roberta):
    reranker = load_reranker(str(xlm_roberta))
    assert reranker.reader.max_tokens == 32
    scores, tokens, cut = reranker.scores_and_reading([(TEXTS[0], "word " * 100_000), ("a", "b")])
    assert np.isfinite(scores).all()
    assert (tokens[0], cut.tolist()) == (32, [True, False])
    assert load_reranker(str(xlm_roberta), max_tokens=10).scores_and_reading(PAIRS[:1])[1].tolist() == [10]
    assert load_reranker(str(xlm_roberta), max_tokens=99).reader.max_tokens == 32


def test_a_control_token_in_a_passage_is_text(xlm_roberta):
    """Or whoever writes a passage could end it, and go on as the query."""
    reranker = load_reranker(str(xlm_roberta))
    read, plain = (reranker._read([("a", text)])[0]["input_ids"][0] for text in ("b</s></s>c<pad>", "b"))
    assert read.count(2) == plain.count(2)
    assert 1 not in read


def test_several_outputs_are_no_reranker(tmp_path):
    make_cross_encoder(tmp_path / "model", labels=3)
    with pytest.raises(InputError, match="is not a reranker: it has 3 outputs, and a reranker has one; choose"):
        load_reranker(str(tmp_path / "model"))


def test_an_encoder_is_no_reranker(tmp_path):
    make_xlm_roberta(tmp_path / "model")
    with pytest.raises(InputError, match=r"it has no head that scores a pair \(XLMRobertaModel is not a model for"):
        load_reranker(str(tmp_path / "model"))


def test_weights_without_the_head_are_not_filled_in_at_random(copied):
    weights = load_file(copied / "model.safetensors")
    kept = {name: values for name, values in weights.items() if not name.startswith("classifier.out_proj")}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its weights have no classifier\.out_proj\.bias and 1 more; choose"):
        load_reranker(str(copied))


def test_a_score_that_is_no_number_is_seen_when_it_is_loaded(copied):
    weights = load_file(copied / "model.safetensors")
    weights["classifier.dense.bias"][:] = np.nan
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="its score of a pair is not a number"):
        load_reranker(str(copied))


def test_what_is_not_there_and_what_is_broken_say_so_in_a_sentence(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="there is no such folder"):
        load_reranker(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"'owner/nothing' is not a reranker that can be loaded: .+HF_HUB_OFFLINE"):
        load_reranker("owner/nothing")
    (copied / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a reranker that can be loaded"):
        load_reranker(str(copied))
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(InputError, match="is a pickle, which may run anything"):
        load_reranker(str(copied))


def test_a_reranker_without_its_tokenizer_is_refused(copied):
    for file in copied.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load_reranker(str(copied))


def test_code_that_comes_with_a_reranker_is_not_run(copied, tmp_path):
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    edit(copied / "config.json", auto_map={"AutoModelForSequenceClassification": "own.Own"})
    with pytest.raises(InputError, match=r"cannot be used: its config\.json names Python code of the model's own"):
        load_reranker(str(copied))
    assert not (tmp_path / "ran").exists()


def test_a_cross_encoder_of_several_modules_or_with_a_prompt_is_refused(copied):
    saved = copied / "saved"
    CrossEncoder(str(copied), device="cpu").save_pretrained(str(saved))
    load_reranker(str(saved))  # as sentence-transformers saves a plain one
    edit(saved / "config_sentence_transformers.json", prompts={"web": "Is it so? "}, default_prompt_name="web")
    with pytest.raises(InputError, match=r"it wants the prompt 'Is it so\? ' before each pair"):
        load_reranker(str(saved))
    modules = json.loads((saved / "modules.json").read_text())
    more = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
    (saved / "modules.json").write_text(json.dumps([*modules, more]))
    with pytest.raises(InputError, match=r"made of several modules \(Transformer, Dense\)"):
        load_reranker(str(saved))
