"""Batches of the baselines: the same text twice, and words swapped for their translations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_store import make_store
from transformers import BatchEncoding

from hybrid_ir.batches.from_experiment import builder_for, lexicon_for, plan_for
from hybrid_ir.batches.ledger import make_ledger
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.training.checkpoint import Progress
from hybrid_ir.types import InputError, key64


def letters(texts, **_):
    """A tokenizer whose tokens are the characters."""
    return BatchEncoding({"input_ids": [[ord(c) for c in text] for text in texts]})


def text(tokens: np.ndarray) -> str:
    return "".join(map(chr, tokens))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches") / "store"
    make_store(folder)
    return open_store(str(folder))


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory):
    """English nouns only: house7 is haus7 and casa7."""
    folder = tmp_path_factory.mktemp("lexicon")
    for target, word in (("de", "haus"), ("es", "casa")):
        lines = [f"house{i}\t{word}{i}" for i in range(300)]
        (folder / f"en-{target}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def build(store, step=0, max_tokens=1000, **batch):
    settings = {"size": 10, "mix": {"monolingual": 1.0}, **batch}
    experiment = parse_experiment({"batch": settings}, "test")
    reader = TextReader(letters, {"query": "", "document": ""}, max_tokens)
    return builder_for(experiment, store, plan_for(store, experiment), reader).build(step)


def test_the_same_text_twice_is_the_passage_on_both_sides(store):
    for step in range(3):
        batch = build(store, step, positives="same_text")
        assert [text(t) for t in batch.query_tokens] == [text(t) for t in batch.passage_tokens]
        assert [text(t) for t in batch.passage_tokens] == [text(t) for t in build(store, step).passage_tokens]


def test_every_word_of_the_lexicon_is_swapped_at_rate_one_and_no_other(store, lexicon):
    seen = set()
    for step in range(9):
        plain = build(store, step)
        switched = build(store, step, code_switch=1.0, lexicon=str(lexicon))
        assert switched.pairs == plain.pairs
        for (language, _), a, b in zip(plain.pairs, plain.query_tokens, switched.query_tokens, strict=True):
            if language != "en":  # the lexicon has nothing for it
                assert text(a) == text(b)
                continue
            number = text(a).removeprefix("where is house").removesuffix("?")
            assert text(b) in {f"where is haus{number}?", f"where is casa{number}?"}
            seen.add(text(b)[9:13])
    assert seen == {"haus", "casa"}


def test_words_are_swapped_into_languages_that_training_leaves_out(store, lexicon):
    batch = build(store, code_switch=1.0, lexicon=str(lexicon), languages=["en"])
    assert all(text(t)[9:13] in ("haus", "casa") for t in batch.query_tokens)


def test_half_the_words_are_swapped_at_rate_one_half(store, lexicon):
    found = [
        "house" not in text(tokens)
        for step in range(90)
        for batch in [build(store, step, code_switch=0.5, lexicon=str(lexicon))]
        for (language, _), tokens in zip(batch.pairs, batch.query_tokens, strict=True)
        if language == "en"
    ]
    assert len(found) == 300
    assert abs(sum(found) / 300 - 0.5) < 4 * (0.25 / 300) ** 0.5  # four standard deviations of a fair coin


def test_code_switching_depends_on_seed_and_step_alone(store, lexicon):
    settings = {"code_switch": 0.5, "lexicon": str(lexicon)}
    first, again = build(store, 4, **settings), build(store, 4, **settings)
    assert [text(t) for t in first.query_tokens] == [text(t) for t in again.query_tokens]


def test_cldr_names_are_swapped_without_a_file(store):
    experiment = parse_experiment({"batch": {"code_switch": 0.5}}, "test")
    lexicon = lexicon_for(experiment, store, plan_for(store, experiment))
    assert lexicon is not None
    assert lexicon.pairs["en", "de"]["Switzerland"] == "Schweiz"


def test_a_lexicon_of_other_languages_is_refused_with_what_it_has(store, tmp_path):
    (tmp_path / "fr-it.txt").write_text("maison casa\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"translates none of the languages of training \(de, en, es\) .*it has fr-it"):
        build(store, code_switch=0.5, lexicon=str(tmp_path))


def test_a_lexicon_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        build(store, code_switch=0.5, lexicon=str(tmp_path / "nowhere"))


def test_questions_and_passages_are_known_by_their_ids_in_every_language_of_the_batch(store):
    for step in range(6):
        batch = build(store, step, mix={"cross_lingual": 1.0})
        asked = sorted({query for query, _ in batch.pairs})
        assert batch.query_ids_BM.shape == (10, len(asked))
        assert [asked[x] for x in batch.query_language_B] == [query for query, _ in batch.pairs]
        own = batch.query_ids_BM[np.arange(10), batch.query_language_B]
        assert own.tolist() == [key64(text(t)) for t in batch.query_tokens]
        assert not batch.repeats_a_question


def test_a_batch_tells_whether_it_repeats_a_question(store):
    batch = build(store)
    ids = batch.query_ids_BM.copy()
    assert not replace(batch, query_ids_BM=ids).repeats_a_question
    ids[7] = ids[2]
    assert replace(batch, query_ids_BM=ids).repeats_a_question
    ids[[2, 7]] = -1  # neither group has a question in that language
    assert not replace(batch, query_ids_BM=ids).repeats_a_question


def test_the_ledger_has_the_share_of_texts_of_each_language_that_were_cut(store):
    plan = plan_for(store, parse_experiment({"batch": {"size": 10, "mix": {"cross_lingual": 1.0}}}, "test"))
    progress, texts = Progress(), []
    for step in range(3):
        batch = build(store, step, max_tokens=19, mix={"cross_lingual": 1.0})
        progress.count(batch)
        texts += [(x, text(t)) for (x, _), t in zip(batch.pairs, batch.query_tokens, strict=True)]
        texts += [(x, text(t)) for (_, x), t in zip(batch.pairs, batch.passage_tokens, strict=True)]
    found = make_ledger(plan, vars(progress))["texts"]
    assert list(found) == ["de", "en", "es"]
    for language, row in found.items():
        lengths = [len(each) for x, each in texts if x == language]
        cut = sum(length > 19 for length in lengths)
        assert 0 < cut < len(lengths)
        assert row == {"trained_on": len(lengths), "cut": cut, "share_cut": cut / len(lengths)}
