"""The index build as a Ray Data job: fragments are encoded by actors and shards written by tasks, on any node.

A build that is killed goes on where it was: fragments that are encoded and shards that are written stay. The folder must be one
that all nodes see.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import ray.data
import ray.exceptions

from hybrid_ir.config import Index
from hybrid_ir.encoders import check_space, difference, encode, load_encoder, probe_vectors, space_of
from hybrid_ir.index.folder import Manifest, ShardEntry, check_files, read_manifest
from hybrid_ir.index.passages import PassageTable
from hybrid_ir.index.shard import is_flat
from hybrid_ir.index.stages import (
    ROWS_PER_SHARD,
    Fragments,
    cut_shards,
    default_codec,
    ingest,
    make_codec,
    make_manifest,
    open_shards,
    publish,
    recall_gate,
    save_array,
    train_codec,
    write_shard,
)
from hybrid_ir.storage import fetch, write_json
from hybrid_ir.types import InputError

Progress = Callable[[str, int], None]


def build_index(
    checkpoint: str,
    passages: Sequence[str],
    out: str,
    settings: Index,
    *,
    seed: int,
    pooling: str = "mean",
    prefixes: tuple[str, str] | None = None,
    progress: Progress = lambda what, done: None,
) -> Manifest:
    """Encode the passages with the checkpoint and write the index to `out`. Needs a running Ray.

    `prefixes` (query, passage) serve a checkpoint that declares none. Raises InputError for input that cannot be indexed, for
    another index or another build at `out`, and when the recall gate fails.
    """
    index = Path(out).absolute()
    build = index / ".build"
    if (index / "manifest.json").exists():
        raise InputError(
            f"{out} is an index already; choose another --out, or add to it: hybrid-ir index-add --index {out}"
        )
    if index.is_dir() and any(index.iterdir()) and not build.is_dir():
        raise InputError(f"{out} holds something that is not an index, so it is left alone; choose another --out")
    if settings.codec is not None:
        make_codec(settings.codec, 64)
    model = load_encoder(checkpoint, pooling=pooling)  # type: ignore[arg-type]
    if prefixes is not None and not any(model.prompts.values()):
        model.prompts |= {"query": prefixes[0], "document": prefixes[1]}
    space = space_of(model)
    here = [fetch(path) for path in passages]
    _claim(build, _inputs(here), space)
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
    _encode(index, fragments, settings, progress)
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
    entries = _write_shards(index, fragments, names, parts, 0, trained, codec, settings, progress)
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
    """Add passages to an index as one more shard, with its own encoder and codec. The index serves as before until the new
    manifest is in place; a running service keeps the old one until it is swapped.

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
    _claim(build, _inputs(here), old.space)
    known: set[str] = set()
    first_id = 0
    for shard in old.shards:
        folder = index / "shards" / shard.name
        for batch in PassageTable(folder / "passages.arrow").column("doc_id"):
            known.update(batch)
        first_id = max(first_id, int(np.load(folder / "ids.npy", mmap_mode="r").max()) + 1)
    fragments = ingest(here, build, known.__contains__, progress)
    _encode(index, fragments, settings, progress)
    trained = make_codec(old.codec, old.space["dimension"])
    if not is_flat(old.codec):
        trained = faiss.read_index(str(index / "codec.faiss"))
    (part,) = cut_shards(fragments.row_languages(), fragments.languages, 1, "language", seed)
    name = f"{max(int(shard.name) for shard in old.shards) + 1:03d}"
    entries = _write_shards(index, fragments, [name], [part], first_id, trained, old.codec, settings, progress)
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
    for path in map(Path, passages):
        if not path.exists():
            raise InputError(
                f"no passages at {path}; give .jsonl, .jsonl.gz or .parquet files, a store, or an XQuAD-R folder"
            )
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            status = file.stat()
            files.append([str(file.absolute()), status.st_size, status.st_mtime_ns])
    return files


def _claim(build: Path, inputs: list[Any], space: dict[str, Any]) -> None:
    """Start a build folder, or find that it holds the same build. Raises InputError if it is another's."""
    wanted = {"space": space, "inputs": inputs}
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
    else:
        return
    raise InputError(f"{build} holds an unfinished build {what}; delete it, or choose another --out")


class _EncodeFragment:
    """Ray Data's stage: a fragment's number in, its passage count out; its vectors are on disk then."""

    def __init__(self, encoder: str, fragments: Fragments, settings: Index) -> None:
        self._model = load_encoder(encoder, device="cuda" if settings.gpus_per_actor else "cpu")
        self._fragments, self._settings = fragments, settings

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        precision, token_budget = self._settings.precision, self._settings.token_budget
        done = []
        for folder in (self._fragments.path(int(n)) for n in rows["fragment"]):
            texts = [text for batch in PassageTable(folder / "passages.arrow").column("text") for text in batch]
            vectors = encode(self._model, texts, role="document", precision=precision, token_budget=token_budget)
            save_array(folder / "vectors.npy", vectors)
            done.append(len(texts))
        return {"passages": np.asarray(done)}


def _encode(index: Path, fragments: Fragments, settings: Index, progress: Progress) -> None:
    missing = [n for n in range(len(fragments.counts)) if not fragments.encoded(n)]
    done = fragments.rows - sum(fragments.counts[n] for n in missing)
    progress("encoded", done)
    if not missing:
        return
    arguments = (str(index / "encoder"), fragments, settings)

    def dataset() -> ray.data.Dataset:
        return _dataset([{"fragment": n} for n in missing]).map_batches(
            _EncodeFragment,
            fn_constructor_args=arguments,
            batch_size=1,
            num_cpus=settings.cpus_per_actor,
            num_gpus=settings.gpus_per_actor,
            compute=ray.data.ActorPoolStrategy(size=min(settings.actors, len(missing))),
        )

    for row in _rows(dataset):
        done += row["passages"]
        progress("encoded", done)


def _write_shards(
    index: Path,
    fragments: Fragments,
    names: Sequence[str],
    parts: Sequence[np.ndarray],
    first_id: int,
    trained: Any,
    codec: str,
    settings: Index,
    progress: Progress,
) -> list[ShardEntry]:
    """Write every shard that an earlier try has not, in parallel. A task holds its own shard and the languages of all rows."""
    empty = ray.put(faiss.serialize_index(trained))
    build = index / ".build"
    plan = {"codec": codec, "shards": len(names), "sharding": settings.sharding, "first_id": first_id}
    write = [{"number": n} for n, name in enumerate(names) if _written(build / f"shard-{name}.json", plan) is None]
    ids = {each["number"]: ray.put(parts[each["number"]]) for each in write}

    def write_one(rows: Any) -> Any:
        sizes = []
        for n in map(int, rows["number"]):
            index_of_shard, part = faiss.deserialize_index(ray.get(empty)), ray.get(ids[n])
            entry = write_shard(index, names[n], part, first_id, fragments, index_of_shard, codec, fragments.keys)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            done = {"plan": plan, "entry": entry.model_dump(mode="json"), "peak_memory_mb": round(peak)}
            write_json(build / f"shard-{names[n]}.json", done)
            sizes.append(len(part))
        return {"rows": np.asarray(sizes)}

    done = sum(map(len, parts)) - sum(len(parts[w["number"]]) for w in write)
    if write:

        def dataset() -> ray.data.Dataset:
            return _dataset(write).map_batches(
                write_one,
                batch_size=1,
                num_cpus=settings.cpus_per_actor,
                compute=ray.data.TaskPoolStrategy(size=settings.actors),
            )

        for row in _rows(dataset):
            done += row["rows"]
            progress("shards", done)
    entries = [_written(build / f"shard-{name}.json", plan) for name in names]
    return [entry for entry in entries if entry is not None]


def _written(marker: Path, plan: dict[str, Any]) -> ShardEntry | None:
    if not marker.is_file():
        return None
    content = json.loads(marker.read_text(encoding="utf-8"))
    return ShardEntry.model_validate(content["entry"]) if content["plan"] == plan else None


def _dataset(items: list[dict[str, int]]) -> ray.data.Dataset:
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items(items, override_num_blocks=len(items))


def _rows(dataset: Callable[[], ray.data.Dataset]) -> Iterator[dict[str, Any]]:
    """Rows of a Dataset as they come. It runs in a task of its own, whose logs are Ray's and not the console's."""

    def run() -> Iterator[dict[str, Any]]:
        yield from dataset().iter_rows()

    remote: Any = ray.remote(num_cpus=0, num_returns="streaming")(run)
    try:
        for reference in remote.remote():
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise (cause or error) from None
