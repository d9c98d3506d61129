"""The encoder on checkpoints of every layout: the same vectors as SentenceTransformer's own, whatever the batch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_bert, make_labse, make_preset, make_xlm_roberta
from hypothesis import given, strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from transformers import AutoModel, AutoTokenizer

from hybrid_ir.encoders import tokens
from hybrid_ir.encoders.embedding import Embedder, encode, freeze_unused, resolve_precision
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.encoders.tokens import TextReader, Tokens, micro_batches, tokenize
from hybrid_ir.types import InputError

pytestmark = pytest.mark.numbers

MAKERS = {"preset": make_preset, "xlm_roberta": make_xlm_roberta, "bert": make_bert, "labse": make_labse}
HARD_TEXTS = [
    *TEXTS,
    " ".join(TEXTS) * 5,  # far longer than any model here reads
    "a",
    ".",
    "caf\u00e9",
    "cafe\u0301",
    "two\nlines\tand   spaces",
    "🙂👩‍👩‍👧 \u200f\u0645\u0635\u0631\u200f",
    "<pad> </s> [PAD] [SEP] [MASK]",
    "\u0000\ufffd",
    "𐍈𐌰𐍂",
]
OUTER_SPACE = ["", " ", "a ", " a", "  東京 ", "a\n"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def load(folder: Path, max_tokens: int | None = 24) -> SentenceTransformer:
    return load_encoder(str(folder), query_prefix="Query: ", passage_prefix="Passage: ", max_tokens=max_tokens)


def ids_of(model: SentenceTransformer, texts: list[str], prefix: str) -> list[list[int]]:
    """What SentenceTransformer itself feeds to the model for each text."""
    return [model.preprocess([text], prompt=prefix)["input_ids"][0].tolist() for text in texts]


# Loading and saving.


def test_a_saved_checkpoint_gives_the_same_vectors_in_plain_sentence_transformers(folder: Path, tmp_path: Path):
    model = load(folder)
    with torch.no_grad():  # what is saved are the weights as they are, not those that were read
        generator = torch.Generator().manual_seed(4)
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save(str(tmp_path / "saved"), create_model_card=False)

    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    read = [TextReader.of(model).plain(text) for text in HARD_TEXTS]
    for role, theirs in (("query", plain.encode_query(read)), ("document", plain.encode_document(read))):
        ours = encode(model, HARD_TEXTS, role=role, precision="fp32")
        assert np.abs(ours - theirs).max() < 1e-6
        assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-6
        again = encode(load_encoder(str(tmp_path / "saved")), HARD_TEXTS, role=role, precision="fp32")
        assert np.array_equal(ours, again)
    assert plain.prompts["query"] == "Query: "
    assert plain.max_seq_length == model.max_seq_length


def test_query_and_passage_prefix_differ(folders: dict[str, Path]):
    model = load(folders["preset"])
    texts = ["the capital"]
    assert not np.allclose(encode(model, texts, role="query"), encode(model, texts, role="document"))


def test_labse_keeps_its_pooling_and_dense_layer(folders: dict[str, Path]):
    """Against LaBSE's recipe written out: BERT's first token, dense, tanh, unit length."""
    model = load_encoder(str(folders["labse"]), pooling="mean")
    assert [type(module) for module in list(model)[1:]] == [Pooling, Dense, Normalize]
    assert model.max_seq_length == 20  # its own

    bert = AutoModel.from_pretrained(folders["labse"]).eval()
    tokens = AutoTokenizer.from_pretrained(folders["labse"])(
        TEXTS[0], return_tensors="pt", truncation=True, max_length=20
    )
    first = bert(**tokens).last_hidden_state[0, 0]
    dense = next(module for module in model if isinstance(module, Dense))
    vector = torch.tanh(dense.linear.weight @ first + dense.linear.bias)
    expected = (vector / vector.norm()).detach().numpy()
    assert expected.shape == (24,)
    np.testing.assert_allclose(encode(model, TEXTS[:1], role="query", precision="fp32")[0], expected, atol=1e-6)


def test_mean_pooling_of_a_plain_folder_is_the_mean_of_its_tokens(folders: dict[str, Path]):
    bert = AutoModel.from_pretrained(folders["bert"]).eval()
    tokens = AutoTokenizer.from_pretrained(folders["bert"])("Query: " + TEXTS[0], return_tensors="pt")
    mean = bert(**tokens).last_hidden_state[0].mean(dim=0)
    expected = (mean / mean.norm()).detach().numpy()
    ours = encode(load(folders["bert"], 40), TEXTS[:1], role="query", precision="fp32")[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_pooling_of_a_plain_folder_is_the_one_asked_for(folders: dict[str, Path], pooling: str):
    model = load_encoder(str(folders["bert"]), pooling=pooling)
    assert model[1].pooling_mode == pooling


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_stored_in_half_precision_is_trained_in_full(folders: dict[str, Path], tmp_path: Path, dtype):
    shutil.copytree(folders["bert"], tmp_path / "half")
    AutoModel.from_pretrained(folders["bert"]).to(dtype).save_pretrained(tmp_path / "half")
    assert {p.dtype for p in load(tmp_path / "half").parameters()} == {torch.float32}


def test_dropout_is_left_as_it_was(folders: dict[str, Path]):
    model = load(folders["bert"])
    for training in (True, False):
        model.train(training)
        encode(model, ["a"], role="query")
        assert {module.training for module in model.modules()} == {training}


# Length.


@pytest.mark.parametrize(("name", "longest"), [("xlm_roberta", 32), ("bert", 40), ("labse", 40)])
def test_max_tokens_is_capped_by_the_models_positions(folders: dict[str, Path], name: str, longest: int):
    # XLM-R's first two of 34 positions are its pad token's.
    model = load(folders[name], 10_000)
    assert model.max_seq_length == longest
    assert len(tokenize(model.tokenizer, [HARD_TEXTS[8]], "", model.max_seq_length)[0]) == longest
    assert encode(model, [HARD_TEXTS[8]], role="query").shape[0] == 1


def test_a_tokenizer_that_names_no_length_is_capped_too(folders: dict[str, Path], tmp_path: Path):
    for name, longest in (("xlm_roberta", 32), ("bert", 40)):
        shutil.copytree(folders[name], tmp_path / name)
        file = tmp_path / name / "tokenizer_config.json"
        settings = json.loads(file.read_text())
        settings.pop("model_max_length", None)
        file.write_text(json.dumps(settings))
        model = load_encoder(str(tmp_path / name))
        assert model.max_seq_length == longest
        assert np.isfinite(encode(model, [HARD_TEXTS[8]], role="query")).all()


def test_a_shorter_max_tokens_cuts_and_keeps_the_special_tokens(folders: dict[str, Path]):
    model = load(folders["bert"], 6)
    (ids,) = tokenize(model.tokenizer, [TEXTS[1]], "", model.max_seq_length)
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (2, 3)  # [CLS], [SEP]


# Tokens.


@pytest.mark.parametrize("prefix", ["", "Query: "])
def test_tokens_are_those_of_sentence_transformers(folder: Path, prefix: str):
    model = load(folder)
    ours = tokenize(model.tokenizer, HARD_TEXTS, prefix, model.max_seq_length)
    assert [row.tolist() for row in ours] == ids_of(model, HARD_TEXTS, prefix)
    assert list(tokenize(model.tokenizer, [], prefix, model.max_seq_length)) == []


@pytest.mark.parametrize("prefix", ["", "Query: "])
def test_tokens_of_texts_with_outer_space_are_those_of_sentence_transformers(folder: Path, prefix: str):
    model = load(folder)
    ours = tokenize(model.tokenizer, OUTER_SPACE, prefix, model.max_seq_length)
    assert [row.tolist() for row in ours] == ids_of(model, OUTER_SPACE, prefix)


def test_tokens_read_as_the_texts_they_are_columns_of():
    texts = [[7, 8], [], [9], [4, 5, 6]]
    tokens = Tokens.of(texts)
    assert (tokens.flat.tolist(), tokens.offsets.tolist()) == ([7, 8, 9, 4, 5, 6], [0, 2, 2, 3, 6])
    assert [row.tolist() for row in tokens] == texts
    assert [row.tolist() for row in tokens[1:3]] == texts[1:3]
    assert [row.tolist() for row in tokens[np.asarray([3, 0, 3])]] == [texts[3], texts[0], texts[3]]
    assert [row.tolist() for row in tokens[2:] + tokens[:2]] == texts[2:] + texts[:2]
    assert (tokens[-1].tolist(), len(tokens[4:])) == ([4, 5, 6], 0)


def test_tokens_are_padded_to_the_longest():
    ids, mask = Tokens.of([[7, 8], [9]]).padded(1)
    assert (ids.tolist(), mask.tolist()) == ([[7, 8], [9, 1]], [[1, 1], [1, 0]])


def test_a_presets_tokenizer_reloads_and_keeps_text(folders: dict[str, Path]):
    tokenizer = AutoTokenizer.from_pretrained(folders["preset"])
    model = load(folders["preset"])
    for text in HARD_TEXTS:
        ids = tokenizer(text, truncation=True, max_length=24)["input_ids"]
        assert tokenize(model.tokenizer, [text], "", 24)[0].tolist() == ids
    ids = tokenizer(TEXTS[4])["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)  # <s>, </s>, as in XLM-R
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXTS[4]


# Micro-batches.


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(16, 200), st.booleans())
def test_micro_batches_cover_each_text_once_within_the_budget(lengths: list[int], budget: int, padded: bool):
    def held(texts: list[int]) -> int:
        return max(texts) * len(texts) if padded else sum(texts)

    batches = micro_batches(np.asarray(lengths, dtype=np.int64), budget, padded=padded)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    in_order = [[lengths[i] for i in batch] for batch in batches]
    assert [length for batch in in_order for length in batch] == sorted(lengths)
    assert all(held(batch) <= budget or len(batch) == 1 for batch in in_order)
    # None ends before it must.
    for batch, following in pairwise(in_order):
        assert held([*batch, following[0]]) > budget


def test_micro_batches_by_hand():
    lengths = np.asarray([50, 3, 8, 3, 8])
    assert [batch.tolist() for batch in micro_batches(lengths, 16, padded=True)] == [[1, 3], [2, 4], [0]]
    assert [batch.tolist() for batch in micro_batches(lengths, 16, padded=False)] == [[1, 3, 2], [4], [0]]


def test_a_long_texts_tokens_count_more_where_its_scores_are_kept():
    """Texts of 4 count 8 tokens, twice their own; one of 12 counts 48, and those of 2 count 3 each."""
    lengths = np.asarray([2, 2, 4, 4, 12])
    assert [batch.tolist() for batch in micro_batches(lengths, 14, padded=False)] == [[0, 1, 2, 3], [4]]
    twice = micro_batches(lengths, 14, padded=False, twice_at=4)
    assert [batch.tolist() for batch in twice] == [[0, 1, 2], [3], [4]]


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_vector_is_the_same_alone_and_padded_in_a_batch(folders: dict[str, Path], name: str):
    """Wrong positions of padded rows (XLM-R counts them from its pad id) would show here."""
    embedder = Embedder(load(folders[name]).eval(), precision="fp32", micro_batch_tokens=10_000)
    tokens = tokenize(embedder.model.tokenizer, HARD_TEXTS, "Query: ", 24)
    assert len({len(row) for row in tokens}) > 5
    with torch.no_grad():
        together = embedder(tokens, [np.arange(len(tokens))])
        alone = torch.cat([embedder(Tokens.of([row])) for row in tokens])
        cut = embedder(tokens, [np.asarray(x) for x in np.array_split(np.arange(len(tokens))[::-1], 4)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(cut, alone, atol=1e-6, rtol=0)


def test_vectors_are_in_the_order_of_the_texts_over_windows(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    model = load(folders["bert"])
    texts = [f"{text} {i}" for i in range(3) for text in TEXTS]
    alone = np.concatenate([encode(model, [text], role="query", precision="fp32") for text in texts])
    monkeypatch.setattr(tokens, "WINDOW", 7)
    counted: list[int] = []
    together = encode(model, texts, role="query", precision="fp32", token_budget=64, progress=counted.append)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert sum(counted) == 24


def test_no_texts_are_no_vectors(folders: dict[str, Path]):
    assert encode(load(folders["labse"]), [], role="document").shape == (0, 24)


def test_bf16_is_close_to_fp32_and_comes_out_as_float32(folder: Path):
    model = load(folder)
    exact = encode(model, HARD_TEXTS, role="query", precision="fp32")
    close = encode(model, HARD_TEXTS, role="query", precision="bf16")
    assert close.dtype == np.float32
    assert np.abs(np.linalg.norm(close, axis=1) - 1).max() < 1e-6
    assert (exact * close).sum(axis=1).min() > 0.999
    assert not np.array_equal(exact, close)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_precision_that_is_named_is_kept(precision: str):
    assert resolve_precision(precision, "cpu") == precision


@pytest.mark.parametrize(("hardware_has_it", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_a_gpu_that_does_not_emulate_it(monkeypatch, hardware_has_it: bool, expected: str):
    """Cards before Ampere emulate it: torch says that they support it unless it is asked about the hardware."""
    monkeypatch.delenv("HYBRID_IR_AUTO_PRECISION", raising=False)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or hardware_has_it
    )
    assert resolve_precision("auto", "cuda:0") == expected


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_environment_says_what_auto_means(monkeypatch, precision: str):
    monkeypatch.setenv("HYBRID_IR_AUTO_PRECISION", precision)
    assert resolve_precision("auto", "cpu") == resolve_precision("auto", "cuda") == precision


def test_an_auto_precision_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("HYBRID_IR_AUTO_PRECISION", "fp8")
    with pytest.raises(InputError, match="HYBRID_IR_AUTO_PRECISION must be bf16 or fp32, got 'fp8'"):
        resolve_precision("auto", "cpu")


# Presets.


def digests(folder: Path) -> dict[str, str]:
    return {x: hashlib.sha256((folder / x).read_bytes()).hexdigest() for x in ("tokenizer.json", "model.safetensors")}


def test_a_preset_is_made_of_its_texts_and_seed(folders: dict[str, Path], tmp_path: Path):
    state = torch.get_rng_state()
    same, other = make_preset(tmp_path / "same"), make_preset(tmp_path / "other", seed=1)
    assert digests(same) == digests(folders["preset"])
    assert digests(other)["tokenizer.json"] == digests(same)["tokenizer.json"]
    assert digests(other)["model.safetensors"] != digests(same)["model.safetensors"]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
def test_a_preset_is_the_same_in_another_process(folders: dict[str, Path], tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from checkpoints import make_preset; make_preset(Path(sys.argv[1]))"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAYON_NUM_THREADS": "1",
        "PYTHONHASHSEED": "4",
    }
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "other")], env=environment, check=True)
    assert digests(tmp_path / "other") == digests(folders["preset"])


def test_a_presets_vocabulary_is_at_most_what_was_asked(tmp_path: Path):
    create_encoder("mini", TEXTS * 4, tmp_path, vocabulary=300, max_tokens=16, seed=0)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["vocab_size"] <= 300
    assert (config["hidden_size"], config["num_hidden_layers"]) == (256, 4)
    assert load_encoder(str(tmp_path), max_tokens=100).max_seq_length == 16


# What is refused.


def _rewrite(file: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(change((folder / file).read_text()))


def _replace(file: str, old: str, new: str) -> Callable[[Path], object]:
    return _rewrite(file, lambda text: text.replace(old, new))


def _cut(keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:keep])


def _remove(*files: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / file).unlink() for file in files]


@pytest.mark.parametrize("name", ["bert", "xlm_roberta", "labse"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("model.safetensors"), "no file named model.safetensors"),
        (_cut(0), "header too small"),
        (_cut(5_000), "header"),
        (_cut(-5_000), "not fully covered"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 10_000), "header"),
        (_remove("tokenizer.json"), "tokenizer"),
        (_remove("tokenizer.json", "tokenizer_config.json"), "its tokenizer is missing"),
        (_rewrite("tokenizer.json", lambda text: text[:100]), "tokenizer"),
        (_rewrite("config.json", lambda text: text[:40]), "not a valid JSON file"),
        (_rewrite("config.json", lambda text: "{}"), "model_type"),
        (_replace("config.json", '"hidden_size": 32', '"hidden_size": 64'), "mismatched"),
        (_replace("config.json", '"hidden_size": 32', '"hidden_size": "wide"'), "hidden_size"),
        (_replace("tokenizer_config.json", '"pad_token":', '"no_pad_token":'), "no pad token"),
    ],
    ids=[
        "no weights", "empty weights", "weights cut early", "weights cut late", "weights of noise", "no tokenizer.json",
        "no tokenizer at all", "tokenizer cut", "config cut", "config empty", "weights of another size",
        "config of words", "no pad token",
    ],
)  # fmt: skip
def test_a_broken_folder_is_named_with_the_reason(
    folders: dict[str, Path], tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
):
    broken = tmp_path / "broken"
    shutil.copytree(folders[name], broken)
    damage(broken)
    with pytest.raises(InputError) as caught:
        load_encoder(str(broken), max_tokens=16)
    assert str(broken) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", "{"),
        ("modules.json", "[]"),
        ("modules.json", '[{"idx": 0, "name": "0", "path": "", "type": "no.such.Module"}]'),
        ("1_Pooling/config.json", "{"),
        ("2_Dense/model.safetensors", "cut"),
        ("2_Dense/config.json", '{"in_features": 7, "out_features": 24, "bias": true}'),
    ],
)
def test_a_broken_sentence_transformers_folder_is_named(
    folders: dict[str, Path], tmp_path: Path, file: str, content: str
):
    broken = tmp_path / "broken"
    shutil.copytree(folders["labse"], broken)
    (broken / file).write_text(content)
    with pytest.raises(InputError, match="broken"):
        load_encoder(str(broken))


def test_pooling_that_leaves_the_prompt_out_is_refused(folders: dict[str, Path], tmp_path: Path):
    model = load(folders["labse"])
    model[1].include_prompt = False
    model.save(str(tmp_path), create_model_card=False)
    with pytest.raises(InputError, match="include_prompt"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such", "no such model", "nobody/no-such-model", "tinyy", ""])
def test_a_name_that_is_not_a_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="is not a model") as caught:
        load_encoder(name)
    assert repr(name) in str(caught.value)
    assert ("there is no such folder" in str(caught.value)) == name.startswith(("/", "."))


@pytest.mark.parametrize(("maker", "module"), [("xlm_roberta", "."), ("labse", "2_Dense")])
def test_weights_of_a_folder_that_are_a_pickle_are_refused_unread(maker: str, module: str, tmp_path: Path):
    """Reading it would make a file."""

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    MAKERS[maker](tmp_path / "model")
    weights = tmp_path / "model" / module / "model.safetensors"
    torch.save(Bomb(), weights.with_name("pytorch_model.bin"))
    load_encoder(str(tmp_path / "model"))  # safetensors is beside it, and is what is read
    weights.unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle, .* save the model as safetensors"):
        load_encoder(str(tmp_path / "model"))
    assert not (tmp_path / "ran").exists()


def test_a_folder_or_file_that_is_not_a_model_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("text")
    for name in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match=r"neither modules\.json nor config\.json"):
            load_encoder(str(name))


# What DDP would wait for.


def test_the_pooler_that_no_vector_uses_is_frozen_and_nothing_else(folder: Path):
    embedder = Embedder(load(folder), precision="fp32", micro_batch_tokens=None)
    names = freeze_unused(embedder)
    assert sorted(names) == ["model.0.model.pooler.dense.bias", "model.0.model.pooler.dense.weight"]
    assert {name for name, p in embedder.named_parameters() if not p.requires_grad} == set(names)
    assert all(p.grad is None for p in embedder.parameters())
    assert freeze_unused(embedder) == []
