"""How encoders read texts: their own prefixes, lengths, control tokens, space, and what of it a saved model keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import TEXTS, make_bert, make_labse, make_preset, make_xlm_roberta
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hybrid_ir.config.loading import load_experiment
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import PAPER_PREFIXES, dropout_of, load_encoder
from hybrid_ir.encoders.tokens import TextReader, tokenize
from hybrid_ir.training.initial_model import describe_encoder
from hybrid_ir.types import OUTER_SPACE, InputError

MAKERS = {"preset": make_preset, "xlm_roberta": make_xlm_roberta, "bert": make_bert, "labse": make_labse}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in MAKERS.items()}


def saved_with(folder: Path, at: Path, prompts: dict[str, str] | None, default: str | None = None) -> str:
    """The model with these prompts in its configuration file; None = with no such file at all."""
    SentenceTransformer(str(folder)).save(str(at), create_model_card=False)
    file = at / "config_sentence_transformers.json"
    if prompts is None:
        file.unlink()
    else:
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "prompts": prompts, "default_prompt_name": default})
        )
    return str(at)


def prefixes_of(name: str, **options: Any) -> tuple[str, str]:
    prefixes = TextReader.of(load_encoder(name, **options)).prefixes
    return prefixes["query"], prefixes["document"]


# Prefixes.


def test_a_models_own_prefixes_are_not_overwritten(folders: dict[str, Path], tmp_path: Path):
    e5 = saved_with(folders["bert"], tmp_path / "e5", {"query": "query: ", "document": "passage: "})
    assert prefixes_of(e5, without_prefixes=PAPER_PREFIXES) == ("query: ", "passage: ")
    assert prefixes_of(e5, query_prefix="Q: ") == ("Q: ", "passage: ")
    assert prefixes_of(e5, query_prefix="", passage_prefix="") == ("", "")


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "query: ", "passage": "passage: "}, None, ("query: ", "passage: ")),
        ({"query": "query: ", "corpus": "corpus: "}, None, ("query: ", "corpus: ")),
        ({"all": "text: ", "query": "query: "}, "all", ("query: ", "text: ")),
    ],
)
def test_a_models_prefixes_are_found_by_the_names_that_it_gives_them(
    folders: dict[str, Path], tmp_path: Path, prompts: dict[str, str], default: str | None, expected: tuple[str, str]
):
    name = saved_with(folders["bert"], tmp_path / "model", prompts, default)
    assert prefixes_of(name, without_prefixes=PAPER_PREFIXES) == expected


def test_only_a_model_that_says_nothing_gets_the_papers(folders: dict[str, Path], tmp_path: Path):
    silent = saved_with(folders["bert"], tmp_path / "silent", None)
    without = saved_with(folders["bert"], tmp_path / "without", {"query": "", "document": ""})
    assert prefixes_of(str(folders["xlm_roberta"]), without_prefixes=PAPER_PREFIXES) == ("Query: ", "Passage: ")
    assert prefixes_of(silent, without_prefixes=PAPER_PREFIXES) == ("Query: ", "Passage: ")
    assert prefixes_of(without, without_prefixes=PAPER_PREFIXES) == ("", "")
    assert prefixes_of(silent) == ("", "")


def test_a_saved_encoder_keeps_its_prefixes_whatever_is_the_default(folders: dict[str, Path], tmp_path: Path):
    for i, given in enumerate((None, "", "Q: ")):
        model = load_encoder(str(folders["preset"]), query_prefix=given, without_prefixes=PAPER_PREFIXES)
        model.save(str(tmp_path / str(i)), create_model_card=False)
        assert prefixes_of(str(tmp_path / str(i)), without_prefixes=PAPER_PREFIXES) == (
            "Query: " if given is None else given,
            "Passage: ",
        )


def test_e5_from_the_hub_has_the_prefixes_of_its_card(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    saved_with(folders["bert"], tmp_path / "intfloat" / "multilingual-e5-small", None)
    assert prefixes_of("intfloat/multilingual-e5-small", without_prefixes=PAPER_PREFIXES) == ("query: ", "passage: ")


# Lengths and dropout.


def test_the_length_is_the_models_own_and_at_most_its_positions(folders: dict[str, Path]):
    xlmr = str(folders["xlm_roberta"])  # 34 positions, two of them the pad token's
    for asked, expected in ((None, 32), (16, 16), (10_000, 32)):
        experiment = load_experiment(None, [f"encoder.max_tokens={asked or 'null'}"])
        model = load_encoder(xlmr, max_tokens=experiment.encoder.max_tokens)
        assert TextReader.of(model).max_tokens == expected
        said = describe_encoder(experiment, model)
        assert (said["max_tokens"], said["max_tokens_asked"]) == (expected, asked)
        # What training feeds to the model has a position for every token.
        tokens = TextReader.of(model).read([" ".join(TEXTS)], "document")
        assert tokens.lengths.tolist() == [expected]
        assert tokens.cut.tolist() == [True]


def test_dropout_is_the_models_own_unless_it_is_given(folders: dict[str, Path], tmp_path: Path):
    assert dropout_of(load_encoder(str(folders["preset"]))) == 0
    own = dropout_of(load_encoder(str(folders["bert"])))
    model = load_encoder(str(folders["preset"]), dropout=0.25)
    assert dropout_of(model) == 0.25
    model.train()
    features = model.preprocess(["one text"])
    a, b = (model(dict(features))["sentence_embedding"].detach().numpy() for _ in range(2))
    assert np.abs(a - b).max() > 1e-3
    model.save(str(tmp_path / "saved"), create_model_card=False)
    assert dropout_of(load_encoder(str(tmp_path / "saved"))) == 0.25
    assert dropout_of(load_encoder(str(folders["bert"]), dropout=0.0)) == 0 != own


def test_the_same_text_twice_needs_dropout(folders: dict[str, Path]):
    experiment = load_experiment(None, ["batch.positives=same_text", "batch.mix={monolingual: 1}"])
    with pytest.raises(InputError, match=r"dropout.*encoder\.dropout"):
        describe_encoder(experiment, load_encoder(str(folders["preset"])))
    assert describe_encoder(experiment, load_encoder(str(folders["preset"]), dropout=0.1))["dropout"] == 0.1


# Text is text.


@pytest.mark.parametrize("name", list(MAKERS))
def test_control_tokens_in_a_text_are_read_as_characters(folders: dict[str, Path], name: str):
    model = load_encoder(str(folders[name]))
    tokenizer = model.tokenizer
    controls = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    texts = [f"the {token} of{token}the" for token in tokenizer.all_special_tokens]
    reader = TextReader.of(model)
    for text, ids in zip(texts, reader.read(["the of the", *texts], "query")[1:], strict=True):
        assert sum(token in controls for token in ids.tolist()) == 2, text  # what begins and what ends it
    assert [reader.plain(text) for text in ("a < b > [c] <>", "no token")] == ["a < b > [c] <>", "no token"]


def test_control_tokens_that_are_pieces_of_a_unigram_vocabulary_are_split_too(tmp_path: Path):
    """As in XLM-R: a tokenizer that does not look for control tokens finds the pieces of that name."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -5.0) for c in "\u2581abdps</>")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    assert 1 in fast(["a<pad>b"], split_special_tokens=True)["input_ids"][0]
    reader = TextReader(fast, {"query": ""}, 64, tuple(fast.all_special_tokens))
    assert not {0, 1, 2} & set(reader.read(["a<pad>b</s><s>"], "query").flat.tolist())


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("space", [" ", "\n", "\t ", "\u200b", "\ufeff", "\u3000\u2060", "\r\n"])
def test_space_around_a_text_is_no_part_of_it(folders: dict[str, Path], name: str, space: str):
    model = load_encoder(str(folders[name]), query_prefix="query: ")
    texts = [TEXTS[0], f"{TEXTS[0]}{space}", f"{space}{TEXTS[0]}", f"{space}{TEXTS[0]}{space}"]
    alike = [ids.tolist() for ids in TextReader.of(model).read(texts, "query")]
    assert alike == [alike[0]] * 4


def test_outer_space_holds_all_that_str_strip_takes_off_and_no_joiner():
    assert {chr(i) for i in range(0x110000) if chr(i).isspace()} < set(OUTER_SPACE)
    assert not {"\u200c", "\u200d"} & set(OUTER_SPACE)


def test_a_preset_reads_a_line_break_as_a_space(folders: dict[str, Path]):
    reader = TextReader.of(load_encoder(str(folders["preset"])))
    spaced, broken, wide = (ids.tolist() for ids in reader.read(["a b", "a\nb", "a \u200b\t b"], "query"))
    assert spaced == broken == wide


# What was cut.


@pytest.mark.parametrize("name", list(MAKERS))
def test_texts_that_are_cut_are_told_from_those_that_just_fit(folders: dict[str, Path], name: str):
    model = load_encoder(str(folders[name]))
    (whole,) = tokenize(model.tokenizer, [TEXTS[1]], "", 10_000)
    read = [tokenize(model.tokenizer, [TEXTS[1], "a"], "", most) for most in (len(whole) - 1, len(whole))]
    assert [tokens.cut.tolist() for tokens in read] == [[True, False], [False, False]]
    both = read[0] + read[1]
    assert both.cut.tolist() == [True, False, False, False]
    assert both[np.asarray([3, 0])].cut.tolist() == [False, True]
    assert both[1:].cut.tolist() == [False, False, False]


LONG_TEXTS = [
    (" ".join(TEXTS) + " ") * 60,
    "什么河流最长" * 1500,
    "x" * 9000,
    ("x" * 101 + " ") * 90,  # a word is one token, so that the beginning is not enough
    "a" + " " * 9000 + "b",
    "The end. \n\n" * 800,
    "a\u0301" * 4000,
    "👩‍👩‍👧‍👦" * 1200,
    "abc " * 7 + "\u200b" * 9000,  # fits, although it is long
]


class Watched:
    """A tokenizer that keeps the lengths of the texts it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.lengths = tokenizer, []

    def __call__(self, texts: list[str], **how: Any) -> Any:
        self.lengths += map(len, texts)
        return self.tokenizer(texts, **how)


@pytest.mark.parametrize("name", list(MAKERS))
def test_of_a_long_text_the_beginning_is_read_and_gives_the_tokens_of_the_whole(folders: dict[str, Path], name: str):
    tokenizer = load_encoder(str(folders[name])).tokenizer
    for most in (3, 8, 40):
        tokens = tokenize(tokenizer, LONG_TEXTS, "query: ", most)
        whole = tokenizer(["query: " + text for text in LONG_TEXTS], truncation=True, max_length=most)
        assert [ids.tolist() for ids in tokens] == whole["input_ids"]
        assert tokens.cut.tolist() == [bool(encoding.overflowing) for encoding in whole.encodings]
    watched = Watched(tokenizer)
    tokenize(watched, LONG_TEXTS[:1] * 3, "query: ", 40)
    assert max(watched.lengths) <= 2 * 16 * 40 < len(LONG_TEXTS[0])


def test_encode_says_which_texts_were_cut(folders: dict[str, Path]):
    model = load_encoder(str(folders["bert"]))
    texts = ["a", " ".join(TEXTS), "b"]
    cut = np.zeros(3, dtype=bool)
    encode(model, texts, role="document", cut=cut)
    assert cut.tolist() == [False, True, False]
