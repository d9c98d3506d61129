"""What a user asks of an index: build one, add passages to one, verify one.

In: an encoder and files of passages, or an index folder. Out: the index folder, its manifest written last.

A passage goes through `passages` (read and checked), `fragments` (cut into pieces on disk), `ray_stages` (encoded),
`codec` (trained on a sample), `writing` (cut into shards and written) and `recall` (measured before the manifest is
written). A build that is killed goes on where it was: fragments that are encoded and shards that are written stay.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hybrid_ir.config import Index
from hybrid_ir.encoders import check_space, difference, load_encoder, probe_vectors, space_of
from hybrid_ir.index.codec import ROWS_PER_SHARD, default_codec, make_codec, train_codec
from hybrid_ir.index.folder import Manifest, check_files, read_manifest
from hybrid_ir.index.fragments import ingest
from hybrid_ir.index.passages import PassageTable, passages_at
from hybrid_ir.index.query import is_flat
from hybrid_ir.index.ray_stages import Progress, encode_fragments, write_shards
from hybrid_ir.index.recall import recall_gate
from hybrid_ir.index.writing import cut_shards, make_manifest, open_shards, publish
from hybrid_ir.storage import fetch, write_json
from hybrid_ir.types import InputError


def build_index(
    checkpoint: str,
    passages: Sequence[str],
    out: str,
    settings: Index,
    *,
    seed: int,
    pooling: str = "mean",
    prefixes: tuple[str | None, str | None] = (None, None),
    progress: Progress = lambda what, done: None,
) -> Manifest:
    """Encode the passages with the checkpoint and write the index to `out`. Needs a running Ray.

    `prefixes` (query, passage) replace the checkpoint's own where they are not None. Raises InputError for input that
    cannot be indexed, for another index or another build at `out`, and when the recall gate fails.
    """
    index = Path(out).absolute()
    build = index / ".build"
    if (index / "manifest.json").exists():
        raise InputError(
            f"{out} is an index already; choose another --out, or add to it: "
            f"hybrid-ir index add --index {out} --passages ..."
        )
    if index.is_dir() and any(index.iterdir()) and not build.is_dir():
        raise InputError(f"{out} holds something that is not an index, so it is left alone; choose another --out")
    model = load_encoder(checkpoint, pooling=pooling, query_prefix=prefixes[0], passage_prefix=prefixes[1])  # type: ignore[arg-type]
    space = space_of(model)
    if settings.codec is not None:
        make_codec(settings.codec, space["dimension"])
    here = [fetch(path) for path in passages]
    _claim(build, _inputs(here), space, seed, settings.precision)
    fragments = ingest(here, build, progress=progress)
    if not (index / "encoder").is_dir():
        # Saved, renamed, and loaded from there by the actors: what is served is what encoded.
        shutil.rmtree(build / "encoder", ignore_errors=True)
        model.save_pretrained(str(build / "encoder"), create_model_card=False)
        os.replace(build / "encoder", index / "encoder")
    saved = space_of(load_encoder(str(index / "encoder")))
    if saved["id"] != space["id"]:
        raise InputError(
            f"the encoder {checkpoint} does not survive being saved: its {difference(space, saved)} changed"
        )
    encode_fragments(index, fragments, settings, progress)
    count = settings.shards or -(-fragments.rows // ROWS_PER_SHARD)
    if count > fragments.rows:
        raise InputError(f"index.shards={count} is more than there are passages ({fragments.rows})")
    codec = settings.codec or default_codec(fragments.rows, count)
    progress("training the codec", 0)
    trained = train_codec(codec, fragments, space["dimension"], seed)
    if not is_flat(codec):
        faiss.write_index(trained, str(index / "codec.faiss"))
    names = [f"{n:03d}" for n in range(count)]
    parts = cut_shards(fragments.row_languages(), fragments.languages, count, settings.sharding, seed)
    entries = write_shards(index, fragments, names, parts, 0, trained, codec, settings, seed, progress)
    os.replace(build / "rejected.jsonl", index / "rejected.jsonl")
    manifest = _gate_and_publish(
        index,
        settings,
        seed,
        space=space,
        probes=probe_vectors(model, settings.precision),
        codec=codec,
        sharding=settings.sharding,
        shards=entries,
        keys=fragments.keys,
        rejected=fragments.rejected,
        settings_shown={"checkpoint": checkpoint, "passages": list(map(str, passages)), "seed": seed},
        progress=progress,
    )
    shutil.rmtree(build)
    return manifest


def add_passages(
    out: str, passages: Sequence[str], settings: Index, *, seed: int, progress: Progress = lambda what, done: None
) -> Manifest:
    """Add passages to an index as one more shard, with its own encoder and codec. The index serves as before until
    the new manifest is in place; a running service keeps the old one until it is swapped.

    Raises InputError for a damaged index, and when nothing new can be added.
    """
    index = Path(out).absolute()
    old = read_manifest(index)
    check_files(index, old.files)
    for shard in old.shards:
        check_files(index, shard.files)
    model = load_encoder(str(index / "encoder"))
    check_space(str(index), old.space, old.probes, model)
    build = index / ".build"
    here = [fetch(path) for path in passages]
    _claim(build, _inputs(here), old.space, seed, settings.precision)
    known: set[str] = set()
    first_id = 0
    for shard in old.shards:
        folder = index / "shards" / shard.name
        for batch in PassageTable(folder / "passages.arrow").column("doc_id"):
            known.update(batch)
        first_id = max(first_id, int(np.load(folder / "ids.npy", mmap_mode="r").max()) + 1)
    fragments = ingest(here, build, known.__contains__, progress)
    encode_fragments(index, fragments, settings, progress)
    trained = make_codec(old.codec, old.space["dimension"])
    if not is_flat(old.codec):
        trained = faiss.read_index(str(index / "codec.faiss"))
    (part,) = cut_shards(fragments.row_languages(), fragments.languages, 1, "language", seed)
    name = f"{max(int(shard.name) for shard in old.shards) + 1:03d}"
    entries = write_shards(index, fragments, [name], [part], first_id, trained, old.codec, settings, seed, progress)
    with (index / "rejected.jsonl").open("ab") as rejects:
        rejects.write((build / "rejected.jsonl").read_bytes())
    reasons = dict(old.rejected)
    for reason, count in fragments.rejected.items():
        reasons[reason] = reasons.get(reason, 0) + count
    manifest = _gate_and_publish(
        index,
        settings,
        seed,
        space=old.space,
        probes=np.asarray(old.probes, dtype=np.float32),
        codec=old.codec,
        sharding=old.sharding,
        shards=[*old.shards, *entries],
        keys=sorted({*old.metadata_keys, *fragments.keys}),
        rejected=reasons,
        settings_shown={**old.settings, "added": [*old.settings.get("added", []), *map(str, passages)]},
        progress=progress,
    )
    shutil.rmtree(build)
    return manifest


def verify_index(out: str, settings: Index, *, seed: int) -> Manifest:
    """Check everything that can be: files, checksums, row counts, the encoder's space id and probes, recall at the
    manifest's nprobe. Returns the manifest with the recall that was measured. Raises InputError for the first fault."""
    index = Path(out).absolute()
    manifest = read_manifest(index)
    check_files(index, manifest.files)
    shards = open_shards(index, manifest)
    counted: dict[str, int] = {}
    for shard in shards:
        for name, (start, end) in shard.entry.languages.items():
            counted[name] = counted.get(name, 0) + end - start
    if counted != manifest.languages:
        raise InputError(
            f"{out}: the shards hold {counted}, the manifest says {manifest.languages}; build the index again"
        )
    check_space(str(index), manifest.space, manifest.probes, load_encoder(str(index / "encoder")))
    _, recall = recall_gate(
        shards, target=settings.recall_target, sample=settings.recall_sample, seed=seed, nprobe=manifest.nprobe
    )
    return manifest.model_copy(update={"recall": recall})


def _gate_and_publish(
    index: Path, settings: Index, seed: int, *, settings_shown: dict[str, Any], progress: Progress, **parts: Any
) -> Manifest:
    shown = {**settings_shown, **settings.model_dump(mode="json")}
    draft = make_manifest(index, settings=shown, **parts)
    progress("measuring recall", 0)
    shards = open_shards(index, draft, checksums=False)
    nprobe, recall = recall_gate(shards, target=settings.recall_target, sample=settings.recall_sample, seed=seed)
    manifest = make_manifest(index, settings=shown, nprobe=nprobe, recall=recall, **parts)
    publish(index, manifest)
    return manifest


def _inputs(passages: Sequence[str]) -> list[Any]:
    """Name, size and time of every file that is read: a build goes on only with the same."""
    files = []
    for path in map(passages_at, passages):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            status = file.stat()
            files.append([str(file.absolute()), status.st_size, status.st_mtime_ns])
    return files


def _claim(build: Path, inputs: list[Any], space: dict[str, Any], seed: int, precision: str) -> None:
    """Start a build folder, or find that it holds the same build. Raises InputError if it is another's."""
    wanted = {"space": space, "inputs": inputs, "seed": seed, "precision": precision}
    marker = build / "build.json"
    if not marker.is_file():
        build.mkdir(parents=True, exist_ok=True)
        write_json(marker, wanted)
        return
    found = json.loads(marker.read_text(encoding="utf-8"))
    if found["space"]["id"] != space["id"]:
        what = f"with another encoder (it differs in {difference(found['space'], space)})"
    elif found["inputs"] != json.loads(json.dumps(inputs)):
        what = "of other passages, or they have changed since"
    elif found.get("seed") != seed:
        what = f"with seed={found.get('seed')}, not {seed}"
    elif found.get("precision") != precision:
        what = f"with index.precision={found.get('precision')}, not {precision}"
    else:
        return
    raise InputError(f"{build} holds an unfinished build {what}; delete it, or choose another --out")
