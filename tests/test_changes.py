"""Passages that are deleted and replaced: an index answers as one that never had them, and nothing is half done."""

from __future__ import annotations

import itertools

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import SPACE, search, write_fragments
from test_shard import COUNT, LANGUAGES, PASSAGES, VECTORS, D, asked, unit
from without_ray import without_ray

from hybrid_ir.config.experiment import Index
from hybrid_ir.index import query as query_module
from hybrid_ir.index.changes.compact import compact_index
from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.folder import Manifest, read_manifest
from hybrid_ir.index.query import ShardQuery, is_flat
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.tombstones import bury, keys_of_living, rows_of
from hybrid_ir.index.writing import count_lists, cut_shards, make_manifest, open_shards, publish, write_one_shard

CODECS = ("Flat", "IVF32,SQ8", "IVF32,PQ8x4fs", "IVF32,RaBitQ4")
NPROBE = 3


class Corpus:
    """One trained codec, and the indices of any of its passages, cut in any way."""

    def __init__(self, folder, codec: str) -> None:
        self.folder, self.codec = folder, codec
        self.fragments = write_fragments(folder / "fragments", PASSAGES, VECTORS)
        self.empty = faiss.serialize_index(train_codec(codec, self.fragments, D, 0))
        self._numbers = itertools.count()
        self.whole = {
            cut: self.write(np.arange(COUNT), *cut) for cut in ((1, "language"), (4, "language"), (3, "random"))
        }

    def write(self, ids: np.ndarray, shards: int, sharding: str) -> tuple:
        """(folder, manifest) of an index of the passages with these global ids alone."""
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        faiss.write_index(faiss.deserialize_index(self.empty), str(folder / "codec.faiss"))
        parts = cut_shards(self.fragments.row_languages()[ids], self.fragments.languages, shards, sharding, 0)
        entries = [
            write_one_shard(
                folder, f"{n:03d}", ids[part], 0, self.fragments, faiss.deserialize_index(self.empty), self.codec,
                self.fragments.keys,
            )
            for n, part in enumerate(parts)
        ]  # fmt: skip
        return folder, self.manifest(folder, entries)

    def manifest(self, folder, entries, parent: str | None = None) -> Manifest:
        made = make_manifest(
            folder,
            space={**SPACE, "dimension": D}, probes=np.zeros((0, D)), codec=self.codec, sharding="language",
            shards=entries, keys=keys_of_living(folder, entries), rejected={}, settings={}, files={},
            nprobe=0 if is_flat(self.codec) else NPROBE, parent=parent,
        )  # fmt: skip
        files = count_lists(folder, open_shards(folder, made, checksums=False))
        return publish(folder, made.model_copy(update={"files": files}))

    def without(self, doc_ids: list[str], cut: tuple[int, str]) -> tuple[Manifest, list[Shard]]:
        """That cut of the whole, with these passages deleted."""
        folder, whole = self.whole[cut]
        entries = bury(folder, whole.shards, rows_of(folder, whole, doc_ids))
        manifest = self.manifest(folder, entries, whole.index_version)
        return manifest, open_shards(folder, manifest)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return {codec: Corpus(tmp_path_factory.mktemp("corpus"), codec) for codec in CODECS}


@st.composite
def deletions(draw) -> list[int]:
    """Numbers of passages: some here and there; perhaps a whole language, a whole neighbourhood, or all but a few."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    gone = rng.random(COUNT) < draw(st.sampled_from((0.0, 0.001, 0.1, 0.5, 0.99)))
    if (language := draw(st.sampled_from((None, None, *LANGUAGES)))) is not None:
        gone |= np.array([p.language == language for p in PASSAGES])
    if draw(st.booleans()):  # the nearest of one, whose lists then hold little
        gone |= VECTORS @ VECTORS[draw(st.integers(0, COUNT - 1))] > 0.6
    gone[draw(st.integers(3, COUNT - 1))] = True
    gone[[0, 1, 2]] = False
    return np.flatnonzero(gone).tolist()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gone=deletions(), asked=asked, small=st.booleans(), codec=st.sampled_from(CODECS))
def test_an_index_without_some_passages_answers_as_one_that_never_had_them(
    corpora, monkeypatch, gone, asked, small, codec
):
    """Ids, scores, ties, language filters, filters by metadata, pages, the number of candidates: in every cut."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", 100 if small else 20_000)
    corpus = corpora[codec]
    left = np.setdiff1d(np.arange(COUNT), gone)
    folder, expected = corpus.write(left, 1, "language")
    noise = np.random.default_rng(0).normal(size=(len(asked), D)) * 0.1
    vectors = unit(np.stack([VECTORS[n] + noise[i] * moved for i, (n, moved, _, _) in enumerate(asked)]))
    queries = [ShardQuery(k, *filter_, among) for among in (None, 60) for _, _, k, filter_ in asked]
    vectors = np.concatenate([vectors, vectors])
    right = search(open_shards(folder, expected), vectors, queries)
    for cut in corpus.whole:
        manifest, shards = corpus.without([PASSAGES[n].doc_id for n in gone], cut)
        assert search(shards, vectors, queries) == right, cut
        assert search(shards, vectors[:1], queries[:1]) == right[:1], cut
        # What is counted counts what lives.
        assert manifest.languages == expected.languages
        assert manifest.metadata_keys == expected.metadata_keys
        assert sum(sum(shard.entry.living.values()) for shard in shards) == len(left) == manifest.rows
        if not is_flat(codec):
            np.testing.assert_array_equal(shards[0].totals.counts, open_shards(folder, expected)[0].totals.counts)
        for n in (gone[0], gone[-1]):
            assert [shard.find(PASSAGES[n].doc_id) for shard in shards] == [None] * len(shards)
        (found,) = [stored for shard in shards if (stored := shard.find("doc-1")) is not None]
        assert found.passage == PASSAGES[1]


def test_what_is_deleted_is_in_the_version_and_in_files_of_its_own(corpora):
    corpus = corpora["IVF32,SQ8"]
    folder, whole = corpus.whole[4, "language"]
    before = {path: path.read_bytes() for path in folder.rglob("*.npy")}
    one, _ = corpus.without(["doc-7"], (4, "language"))
    two, _ = corpus.without(["doc-7", "doc-9"], (4, "language"))
    assert len({whole.index_version, one.index_version, two.index_version}) == 3
    assert corpus.without(["doc-7"], (4, "language"))[0].index_version == one.index_version
    assert {path: path.read_bytes() for path in before} == before
    assert (whole.format, one.format) == (2, 3)
    assert "deleted" not in whole.model_dump()["shards"][0]
    assert read_manifest(folder, whole.index_version) == whole
    assert sum(shard.deleted is not None for shard in one.shards) == 1


@pytest.mark.parametrize("codec", [*CODECS, "IVF32,Flat", "IVF32,PQ8x4", "IVF32,RaBitQfs", "IVF32,PQ8x4fsr"])
@pytest.mark.parametrize("sharding", ["language", "random"])
def test_a_compacted_index_has_the_bytes_of_one_that_never_had_what_was_deleted(tmp_path, monkeypatch, codec, sharding):
    """Codes, vectors, ids and passages, of any codec, out of shards that were cut in another way; and no passage is
    encoded, for there is no encoder."""
    without_ray(monkeypatch)
    corpus = Corpus(tmp_path, codec)
    gone = np.flatnonzero(np.random.default_rng(0).random(COUNT) < 0.4)
    folder, whole = corpus.whole[3, "random"] if sharding == "random" else corpus.whole[4, "language"]
    entries = bury(folder, whole.shards, rows_of(folder, whole, [PASSAGES[n].doc_id for n in gone]))
    old = corpus.manifest(folder, entries, whole.index_version)
    compacted = compact_index(str(folder), Index(shards=2), seed=0)
    fresh_folder, fresh = corpus.write(np.setdiff1d(np.arange(COUNT), gone), 2, "language")
    assert [shard.name for shard in fresh.shards] == ["000", "001"]
    for ours, theirs in zip(compacted.shards, fresh.shards, strict=True):
        for name in theirs.files:
            mine = folder / name.replace(f"/{theirs.name}/", f"/{ours.name}/")
            assert mine.read_bytes() == (fresh_folder / name).read_bytes(), name
    assert (compacted.languages, compacted.metadata_keys) == (fresh.languages, fresh.metadata_keys)
    assert (compacted.parent, compacted.format, compacted.nprobe) == (old.index_version, 2, old.nprobe)
    assert read_manifest(folder, old.index_version) == old
    queries = [ShardQuery(20, languages) for languages in (None, ("de",), ("de", "sw"))] * 20
    answers = [search(open_shards(folder, each), VECTORS[:60], queries) for each in (old, compacted)]
    assert answers[0] == answers[1]
    assert compact_index(str(folder), Index(shards=2), seed=0) == compacted
