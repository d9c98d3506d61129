"""Small indices, made stage by stage without Ray: of given vectors, or of passages and a tiny encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
from checkpoints import make_preset

from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.space import probe_vectors, space_of
from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.folder import Manifest
from hybrid_ir.index.fragments import FRAGMENT_ROWS, Fragments, save_array
from hybrid_ir.index.passage_table import write_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery, is_flat, merge
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.terms.counts import count_words
from hybrid_ir.index.writing import count_lists, cut_shards, make_manifest, open_shards, publish, write_one_shard
from hybrid_ir.serving.api import SearchResponse

SPACE = {"id": "0" * 16, "dimension": 0, "max_tokens": 32, "prefixes": {"query": "", "document": ""}, "parts": {}}


def ask(http, query: str | list[str] | None, **body):
    """What /search answers, held to its model."""
    answer = http.post("/search", json={"query": query, **body})
    assert answer.status_code == 200, answer.text
    SearchResponse.model_validate_json(answer.content)
    return answer.json()


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_fragments(
    folder: Path, passages: list[IndexedPassage], vectors: np.ndarray, pieces: np.ndarray | None = None
) -> Fragments:
    """`pieces` (vectors, 3) says whose each vector is, and of which characters; None = vector n is of passage n."""
    names = sorted({p.language for p in passages}, reverse=True)  # not in the order of their names
    keys = tuple(sorted({k for p in passages for k in p.metadata}))
    counts = []
    for start in range(0, len(passages), FRAGMENT_ROWS):
        part = passages[start : start + FRAGMENT_ROWS]
        home = folder / f"{len(counts):05d}"
        home.mkdir(parents=True)
        write_passages(home / "passages.arrow", part, keys)
        np.save(home / "languages.npy", np.asarray([names.index(p.language) for p in part], dtype=np.int16))
        here = slice(start, start + FRAGMENT_ROWS)
        if pieces is not None:
            here = (pieces[:, 0] >= start) & (pieces[:, 0] < start + FRAGMENT_ROWS)
            save_array(home / "pieces.npy", pieces[here] - np.asarray([start, 0, 0], dtype=np.int32))
        save_array(home / "vectors.npy", vectors[here])
        counts.append(len(part))
    return Fragments(folder, tuple(counts), tuple(names), keys, {})


def write_index(
    folder: Path,
    passages,
    vectors,
    *,
    codec: str,
    shards: int,
    sharding: str = "language",
    nprobe: int = 4,
    seed: int = 0,
    candidates: int = 4,
    pieces: np.ndarray | None = None,
    lexical: bool = False,
) -> Manifest:
    """An index without an encoder at `folder`. `pieces` as `write_fragments` takes them."""
    folder.mkdir(parents=True)
    fragments = write_fragments(folder / "fragments", passages, vectors, pieces)
    trained = train_codec(codec, fragments, vectors.shape[1], 0)
    empty = faiss.serialize_index(trained)
    parts = cut_shards(fragments.row_languages(), fragments.languages, shards, sharding, seed)
    entries = [
        write_one_shard(
            folder, f"{n:03d}", part, 0, fragments, faiss.deserialize_index(empty), codec, fragments.keys, lexical
        )
        for n, part in enumerate(parts)
    ]
    words, counted = count_words(folder, entries)
    manifest = make_manifest(
        folder,
        space={**SPACE, "dimension": vectors.shape[1]}, probes=np.zeros((0, vectors.shape[1])), codec=codec, sharding=sharding,  # noqa: E501
        shards=entries, keys=fragments.keys, rejected={}, settings={}, nprobe=0 if is_flat(codec) else nprobe,
        candidates=candidates, pieces=None if pieces is None else (64, 16),
        lexical=words,
    )  # fmt: skip
    if not is_flat(codec):
        faiss.write_index(trained, str(folder / "codec.faiss"))
    files = count_lists(folder, open_shards(folder, manifest))
    return publish(folder, manifest.model_copy(update={"files": {**manifest.files, **files, **counted}}))


def open_index(folder: Path, manifest: Manifest) -> list[Shard]:
    return open_shards(folder, manifest)


def search(shards: list[Shard], vectors: np.ndarray, queries: list[ShardQuery]) -> list[list[tuple[int, float]]]:
    """(global id, score) of the hits of each query."""
    lossy, candidates = not is_flat(shards[0].totals.codec), shards[0].totals.candidates
    parts = [shard.search(vectors, queries) for shard in shards]
    return [
        [
            (hit.global_id, hit.score)
            for hit in merge([part[i] for part in parts], query.k, lossy, query.among, candidates)
        ]
        for i, query in enumerate(queries)
    ]


def write_served_index(
    folder: Path,
    passages: list[IndexedPassage],
    *,
    codec="Flat",
    shards=2,
    seed=0,
    sharding="language",
    lexical=False,
    prompts: dict[str, str] | None = None,
):
    """A whole index of `passages` with a tiny encoder of random weights (from `seed`), as `hybrid-ir index` writes
    it. `prompts` are further ones of the encoder.
    """
    folder.mkdir(parents=True)
    initial = make_preset(folder / "initial", seed=seed)
    model = load_encoder(str(initial), query_prefix="query: ", passage_prefix="passage: ", prompts=prompts)
    model.save_pretrained(str(folder / "encoder"), create_model_card=False)
    shutil.rmtree(initial)
    model = load_encoder(str(folder / "encoder"))
    texts, languages = [p.text for p in passages], [p.language for p in passages]
    vectors = encode(model, texts, role="document", languages=languages)
    fragments = write_fragments(folder / "fragments", passages, vectors)
    trained = train_codec(codec, fragments, vectors.shape[1], 0)
    if not is_flat(codec):
        faiss.write_index(trained, str(folder / "codec.faiss"))
    empty = faiss.serialize_index(trained)
    parts = cut_shards(fragments.row_languages(), fragments.languages, shards, sharding, seed)
    entries = [
        write_one_shard(
            folder, f"{n:03d}", part, 0, fragments, faiss.deserialize_index(empty), codec, fragments.keys, lexical
        )
        for n, part in enumerate(parts)
    ]
    shutil.rmtree(folder / "fragments")
    words, counted = count_words(folder, entries)
    manifest = make_manifest(
        folder,
        space=space_of(model), probes=probe_vectors(model), codec=codec, sharding=sharding, shards=entries,
        keys=fragments.keys, rejected={}, settings={}, nprobe=0 if is_flat(codec) else 4,
        lexical=words,
    )  # fmt: skip
    files = count_lists(folder, open_shards(folder, manifest))
    return publish(folder, manifest.model_copy(update={"files": {**manifest.files, **files, **counted}}))


def write_jsonl(path: Path, passages: list[IndexedPassage]) -> str:
    """The path as a text, as `--passages` takes it."""
    path.write_text("".join(json.dumps(p._asdict() | {"metadata": dict(p.metadata)}) + "\n" for p in passages))
    return str(path)


def sample_passages(count: int = 120) -> list[IndexedPassage]:
    """Numbered passages in English, Arabic and Thai, with metadata `year` (2000, 2001, 2002) and sometimes `kind`."""
    said = {"en": "The river number {} is long.", "ar": "النهر رقم {} طويل.", "th": "แม่น้ำหมายเลข {} ยาว"}
    return [
        IndexedPassage(
            f"{language}/{n}", text.format(n), language, {"year": 2000 + n % 3, **({"kind": "news"} if n % 2 else {})}
        )
        for n in range(count // 3)
        for language, text in said.items()
    ]
