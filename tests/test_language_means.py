"""Language correction: what the means of languages differ in is taken off, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_preset
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from hybrid_ir.cli.app import app
from hybrid_ir.encoders import apply_correction, encode, learn_correction, load_encoder, space_of, write_encoder
from hybrid_ir.encoders.derived.language_means import correction_of
from hybrid_ir.evaluation import refuse_loss
from hybrid_ir.types import InputError

OFFSETS = {"de": np.eye(8)[6], "en": np.eye(8)[7], "th": -np.eye(8)[7]}


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    """The same 200 meanings, in six dimensions, in three languages, which differ in the other two."""
    meanings = np.random.default_rng(0).normal(size=(200, 6))
    meanings -= meanings.mean(axis=0)
    wide = np.concatenate([unit(meanings), np.zeros((200, 2))], axis=1)
    return {language: unit(wide + offset) for language, offset in OFFSETS.items()}


def test_translations_get_one_vector_where_languages_differ_by_an_offset(vectors):
    correction = correction_of(vectors)
    assert correction.rank == 2  # of three means, less their own mean
    corrected = {language: correction(each) for language, each in vectors.items()}
    assert np.abs(vectors["en"] - vectors["th"]).max() > 1
    for language in OFFSETS:
        np.testing.assert_allclose(corrected[language], corrected["en"], atol=0.02)
        np.testing.assert_allclose(np.linalg.norm(corrected[language], axis=1), 1, atol=1e-6)


def test_a_vector_without_a_language_keeps_its_direction_in_all_other_dimensions(vectors):
    correction = correction_of(vectors)
    meaning = unit(np.random.default_rng(1).normal(size=(5, 8)) * np.array([1] * 6 + [0] * 2))
    assert (np.sum(correction(meaning)[:, :6] * meaning[:, :6], axis=1) > 0.9).all()


def test_nothing_is_left_to_take_off_a_second_time(vectors):
    corrected = {language: correction_of(vectors)(each) for language, each in vectors.items()}
    with pytest.raises(InputError, match="no language means to take off"):
        correction_of(corrected)


@pytest.fixture
def texts() -> dict[str, list[str]]:
    number = range(60)
    return {
        "de": [f"Die Hauptstadt von Land {n} ist Berlin {n * 7}." for n in number],
        "en": [f"The capital of country {n} is Paris {n * 7}." for n in number],
    }


def test_the_layer_in_the_folder_does_what_the_correction_does(tmp_path: Path, texts):
    """In sentence-transformers too, which has never heard of it."""
    model = load_encoder(str(make_preset(tmp_path / "whole")), query_prefix="query: ", passage_prefix="passage: ")
    before, space = encode(model, texts["en"], role="query", precision="fp32"), space_of(model)["id"]
    correction = learn_correction(model, texts)
    apply_correction(model, correction)
    model.save(str(tmp_path / "corrected"))
    expected = correction(before)
    assert np.abs(expected - before).max() > 0.01
    loaded = load_encoder(str(tmp_path / "corrected"))
    np.testing.assert_allclose(encode(loaded, texts["en"], role="query", precision="fp32"), expected, atol=1e-5)
    theirs = SentenceTransformer(str(tmp_path / "corrected"), device="cpu").encode_query(texts["en"])
    np.testing.assert_allclose(theirs, expected, atol=1e-5)
    assert space_of(loaded)["id"] != space


def test_too_few_texts_or_languages_are_refused(tmp_path: Path, texts):
    model = load_encoder(str(make_preset(tmp_path / "whole")))
    with pytest.raises(InputError, match="found languages: 1"):
        learn_correction(model, {"en": texts["en"]})
    with pytest.raises(InputError, match="50 texts each, found de 3"):
        learn_correction(model, {"en": texts["en"], "de": texts["de"][:3]})


def summary(de: float, multi: float) -> dict:
    return {"matrix": {"de": {"de": de, "en": 0.1}, "en": {"de": 0.1, "en": 0.8}}, "AP_multi": multi}


def test_a_language_that_loses_too_much_or_no_gain_stops_it():
    refuse_loss(summary(0.5, 0.3), summary(0.49, 0.4), 0.02)
    with pytest.raises(InputError, match=r"de 0\.500 -> 0\.470"):
        refuse_loss(summary(0.5, 0.3), summary(0.47, 0.4), 0.02)
    with pytest.raises(InputError, match=r"AP_multi is 0\.300 without it and 0\.290 with it"):
        refuse_loss(summary(0.5, 0.3), summary(0.5, 0.29), 0.02)


def test_an_encoder_is_written_to_a_uri_and_never_over_another(bucket: str, tmp_path: Path):
    model = load_encoder(str(make_preset(tmp_path / "whole")))
    write_encoder(model, f"{bucket}/made", "Said of it.")
    assert space_of(load_encoder(f"{bucket}/made"))["id"] == space_of(model)["id"]
    with pytest.raises(InputError, match="exists"):
        write_encoder(model, f"{bucket}/made", "Said again.")
    words = ["encoder", "trim", "--checkpoint", "tiny", "--texts", "x", "--out", f"{bucket}/made"]
    assert "exists" in str(CliRunner().invoke(app, words).exception)  # before anything is loaded
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the encoder"):
        write_encoder(model, str(tmp_path / "file" / "out"), "Said.")


def test_the_command_writes_an_encoder_with_a_card_and_never_over_another(tmp_path: Path, texts):
    encoder = make_preset(tmp_path / "whole")
    passages = tmp_path / "passages.jsonl"
    rows = [
        {"doc_id": f"{language}{n}", "text": text, "language": language}
        for language, some in texts.items()
        for n, text in enumerate(some)
    ]
    passages.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["encoder", "correct", "--checkpoint", str(encoder), "--passages", str(passages)]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "1 of 128 dimensions" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert len(load_encoder(str(tmp_path / "out"))) == 5  # transformer, pooling, normalise, dense, normalise
    again = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert isinstance(again.exception, InputError)
    assert "exists" in str(again.exception)
    unknown = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "other"), "--languages", "en,th"])
    assert "no passage is in th; there are en" in str(unknown.exception)
