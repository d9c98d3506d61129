"""Words in an index: the same scores from any cut of the passages, whatever was deleted, filtered or compacted."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import SPACE, unit, write_fragments, write_index, write_jsonl
from test_lexical import plain_scores
from without_ray import without_ray

from hybrid_ir.config.experiment import Index
from hybrid_ir.index.changes.change import delete_passages, replace_passages
from hybrid_ir.index.changes.compact import compact_index
from hybrid_ir.index.changes.versions import prune_versions
from hybrid_ir.index.codec import make_codec
from hybrid_ir.index.filters.form import Filter, OneOf
from hybrid_ir.index.folder import checksum_of, read_manifest
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery, merge
from hybrid_ir.index.shard import open_shard
from hybrid_ir.index.terms.counts import check_words, count_words, open_statistics
from hybrid_ir.index.tombstones import bury, rows_of
from hybrid_ir.index.writing import cut_shards, make_manifest, open_shards, publish, write_one_shard
from hybrid_ir.types import InputError

D, COUNT = 4, 150
WORDS = ["Rhein", "sea", "the", "of", "東京", "京都は", "แม่น้ำ", "x1", "Ουρανός", "नदी"]
LANGUAGES = ["de", "en", "ja"]
SAID = random.Random(0)
PASSAGES = [
    IndexedPassage(
        f"doc-{n}", " ".join(SAID.choices(WORDS, range(10, 0, -1), k=SAID.randrange(9))), SAID.choice(LANGUAGES),
        {"year": n % 3},
    )
    for n in range(COUNT)
]  # fmt: skip
VECTORS = unit(np.random.default_rng(0).normal(size=(COUNT, D)))
FILTERS = [(None, None), (("de",), None), (("de", "ja"), None), (None, Filter(must=(OneOf("year", ("1",)),)))]
FILTERS += [(("en",), Filter(must=(OneOf("year", ("2",)),)))]


class Corpus:
    """Indices of any of the passages, cut in any way."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.fragments = write_fragments(folder / "fragments", PASSAGES, VECTORS)
        self._numbers = itertools.count()

    def write(self, ids: np.ndarray, shards: int, sharding: str):
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        parts = cut_shards(self.fragments.row_languages()[ids], self.fragments.languages, shards, sharding, 0)
        entries = [
            write_one_shard(
                folder, f"{n:03d}", ids[part], 0, self.fragments, make_codec("Flat", D), "Flat", self.fragments.keys,
                lexical=True,
            )
            for n, part in enumerate(parts)
        ]  # fmt: skip
        return folder, self.manifest(folder, entries)

    def manifest(self, folder, entries, parent=None):
        words, counted = count_words(folder, entries)
        made = make_manifest(
            folder,
            space={**SPACE, "dimension": D}, probes=np.zeros((0, D)), codec="Flat", sharding="language",
            shards=entries, keys=self.fragments.keys, rejected={}, settings={}, files=counted, parent=parent,
            lexical=words,
        )  # fmt: skip
        return publish(folder, made)

    def delete(self, folder, manifest, gone):
        rows = rows_of(folder, manifest, [PASSAGES[n].doc_id for n in gone])
        return self.manifest(folder, bury(folder, manifest.shards, rows), manifest.index_version)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("lexical"))


@pytest.fixture(scope="module")
def cuts(corpus):
    every = np.arange(COUNT)
    return [corpus.write(every, *cut) for cut in ((1, "language"), (3, "language"), (4, "random"))]


def found_by_words(folder, manifest, text, k, languages=None, where=None):
    """(global id, score) of the hits, as a service finds them."""
    statistics = open_statistics(folder, manifest)
    assert statistics is not None
    query = ShardQuery(k, languages, where, words=statistics.query(text))
    shards = open_shards(folder, manifest, checksums=False)
    parts = [shard.search(np.zeros((2, D), np.float32), [ShardQuery(1), query])[1] for shard in shards]
    return [(hit.global_id, hit.score) for hit in merge(parts, k, lossy=False)]


def plainly(text, k, left, languages, where):
    """The same by a loop over the passages with the numbers `left`."""
    scores = np.float32(plain_scores([PASSAGES[n].text for n in left], text))
    year = None if where is None else int(where.must[0].values[0])
    ranked = sorted(
        (-score, n)
        for n, score in zip(left, scores.tolist(), strict=True)
        if score > 0
        and (languages is None or PASSAGES[n].language in languages)
        and (year is None or PASSAGES[n].metadata["year"] == year)
    )
    return [(n, -score) for score, n in ranked[:k]]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gone=st.sets(st.integers(1, COUNT - 1), max_size=100),
    words=st.lists(st.sampled_from([*WORDS, "東京都", "nobody", "RHEIN"]), min_size=1, max_size=5),
    filter_=st.sampled_from(FILTERS),
    k=st.sampled_from([1, 7, 200]),
)
def test_any_cut_answers_as_a_loop_over_the_living_passages(corpus, cuts, gone, words, filter_, k):
    text, left = " ".join(words), [n for n in range(COUNT) if n not in gone]
    right = plainly(text, k, left, *filter_)
    for folder, manifest in cuts:
        some = corpus.delete(folder, manifest, gone) if gone else manifest
        assert found_by_words(folder, some, text, k, *filter_) == right
        check_words(folder, some)


def test_counts_of_a_changed_index_are_those_of_one_that_never_had_what_is_deleted(corpus, cuts):
    gone = range(3, COUNT, 2)
    _, fresh = corpus.write(np.setdiff1d(np.arange(COUNT), gone), 2, "random")
    for folder, manifest in cuts:
        changed = corpus.delete(folder, manifest, gone)
        assert changed.lexical == fresh.lexical != manifest.lexical
        (ours,), (theirs,) = (
            [(name, file) for name, file in one.files.items() if name.startswith("lexical-")]
            for one in (changed, fresh)
        )
        assert ours == theirs  # named by what it holds, so the same bytes


def test_a_compacted_index_has_the_bytes_of_one_that_never_had_what_was_deleted(corpus, monkeypatch):
    without_ray(monkeypatch)
    gone = range(0, COUNT, 3)
    folder, whole = corpus.write(np.arange(COUNT), 3, "random")
    corpus.delete(folder, whole, gone)
    compacted = compact_index(str(folder), Index(shards=2), seed=0)
    fresh_folder, fresh = corpus.write(np.setdiff1d(np.arange(COUNT), gone), 2, "language")
    assert compacted.lexical == fresh.lexical
    for ours, theirs in zip(compacted.shards, fresh.shards, strict=True):
        assert {"terms.arrow", "lengths.npy"} <= {name.rpartition("/")[2] for name in theirs.files}
        for name in theirs.files:
            mine = folder / name.replace(f"/{theirs.name}/", f"/{ours.name}/")
            assert mine.read_bytes() == (fresh_folder / name).read_bytes(), name
    before = {path.name for path in folder.glob("lexical-*.arrow")}
    prune_versions(folder, 1)
    left = {path.name for path in folder.glob("lexical-*.arrow")}
    assert left == {name for name in compacted.files if name.startswith("lexical-")} < before
    assert found_by_words(folder, compacted, "Rhein sea", 9) == found_by_words(fresh_folder, fresh, "Rhein sea", 9)


def test_an_index_without_words_is_written_as_before(tmp_path):
    manifest = write_index(tmp_path / "i", PASSAGES, VECTORS, codec="Flat", shards=2)
    content = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert "lexical" not in content
    assert content["format"] == 2
    assert open_statistics(tmp_path / "i", manifest) is None
    assert not list((tmp_path / "i").rglob("terms.arrow"))
    made = write_index(tmp_path / "j", PASSAGES, VECTORS, codec="Flat", shards=2, lexical=True)
    assert (made.format, read_manifest(tmp_path / "j")) == (5, made)  # older programs refuse it


def test_damaged_words_are_named(tmp_path):
    manifest = write_index(tmp_path / "i", PASSAGES, VECTORS, codec="Flat", shards=2, lexical=True)
    terms = tmp_path / "i" / "shards" / "001" / "terms.arrow"
    right = terms.read_bytes()
    terms.write_bytes(right[:-40])
    with pytest.raises(InputError, match=r"001/terms.arrow is truncated or corrupt"):
        open_shard(tmp_path / "i", manifest, 1)
    terms.write_bytes(right)
    np.save(terms.with_name("lengths.npy"), np.zeros(3, np.int32))
    with pytest.raises(InputError, match=r"(corrupt|lengths.npy)"):
        open_shard(tmp_path / "i", manifest, 1)
    (counts,) = (tmp_path / "i").glob("lexical-*.arrow")
    counts.write_bytes(counts.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"lexical-\w+.arrow is corrupt"):
        open_statistics(tmp_path / "i", manifest)


def test_words_that_are_damaged_but_as_long_are_named_when_they_are_counted(tmp_path):
    write_index(tmp_path / "i", PASSAGES, VECTORS, codec="Flat", shards=2, lexical=True)
    terms = tmp_path / "i" / "shards" / "001" / "terms.arrow"
    terms.write_bytes(bytes(terms.stat().st_size))
    with pytest.raises(InputError, match=r"001/terms.arrow: its words cannot be read \(.*build the index again"):
        delete_passages(str(tmp_path / "i"), ["doc-1"], Index(recall_target=0), seed=0)


def test_words_of_another_rule_are_not_mixed_with_those_of_this_one(tmp_path):
    folder = tmp_path / "i"
    made = write_index(folder, PASSAGES, VECTORS, codec="Flat", shards=2, lexical=True)
    assert made.lexical is not None
    content = made.model_copy(update={"lexical": made.lexical.model_copy(update={"rule": 0})}).model_dump(mode="json")
    content["checksum"] = checksum_of(content)
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"are by rule 0 of what a word is, .* by rule 1; .* build the index again"):
        replace_passages(str(folder), [write_jsonl(tmp_path / "n.jsonl", PASSAGES[:1])], Index(), seed=0)
    changed = delete_passages(str(folder), ["doc-1"], Index(recall_target=0), seed=0)
    assert changed.lexical is not None
    assert changed.lexical.rule == 0, "what is left is as it was written"


def test_counts_of_other_words_are_found_by_verify(tmp_path):
    manifest = write_index(tmp_path / "i", PASSAGES, VECTORS, codec="Flat", shards=2, lexical=True)
    other = write_index(tmp_path / "j", PASSAGES[:-1], VECTORS[:-1], codec="Flat", shards=1, lexical=True)
    (name,) = [name for name in other.files if name.startswith("lexical-")]
    (tmp_path / "i" / name).write_bytes((tmp_path / "j" / name).read_bytes())
    files = {n: file for n, file in manifest.files.items() if not n.startswith("lexical-")} | {name: other.files[name]}
    assert manifest.lexical is not None
    assert other.lexical is not None
    wrong = manifest.lexical.model_copy(update={"terms": other.lexical.terms})
    with pytest.raises(InputError, match="other ones"):
        check_words(tmp_path / "i", manifest.model_copy(update={"files": files, "lexical": wrong}))


def test_a_deletion_keeps_the_words_of_the_index(tmp_path):
    folder = tmp_path / "i"
    write_index(folder, PASSAGES, VECTORS, codec="Flat", shards=2, lexical=True)
    changed = delete_passages(str(folder), ["doc-1", "doc-7"], Index(recall_target=0), seed=0)
    assert changed.lexical is not None
    left = [n for n in range(COUNT) if n not in (1, 7)]
    assert found_by_words(folder, changed, "the sea of 東京", 20) == plainly("the sea of 東京", 20, left, None, None)
