"""Changes of an index that is there: passages added, replaced, deleted. Each makes a new version, beside the others.

In: an index folder; files of passages, or doc_ids. Out: the version that was made, its manifest written last.

A passage is deleted by a tombstone (see `tombstones`): its row stays in its shard, and no search finds it. To replace
one is to delete it and to add the new one, in one version. Whoever serves a version goes on with it until it is
swapped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hybrid_ir.config import Index, Pieces
from hybrid_ir.encoders import TextReader, check_space, load_encoder
from hybrid_ir.index.changes.versions import kept_versions
from hybrid_ir.index.codec import make_codec
from hybrid_ir.index.folder import REBUILD, Manifest, check_files, describe_files, is_counted, read_manifest
from hybrid_ir.index.fragments import Fragments, ingest
from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.index.query import is_flat
from hybrid_ir.index.ray_stages import Progress, encode_fragments, write_shards
from hybrid_ir.index.recall import gate_and_publish
from hybrid_ir.index.resuming import claim, clear, copy_file, inputs_of, is_finished
from hybrid_ir.index.tombstones import bury, doc_ids_of, keys_of_living, rows_of
from hybrid_ir.index.writing import alone, cut_shards, keep_version
from hybrid_ir.lexical import RULE
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError

Rows = Mapping[str, np.ndarray]


class NoPassage(InputError):
    """The index has no passage with a doc_id that is to be deleted."""


def add_passages(
    out: str, passages: Sequence[str], settings: Index, *, seed: int, progress: Progress = lambda what, done: None
) -> Manifest:
    """Add passages to an index as one more shard, with its own encoder and codec. A doc_id that the index has is
    rejected; one that was deleted is not. Needs a running Ray.

    Raises InputError for a damaged index, when nothing new can be added, and while another process writes the index.
    """
    read_manifest(out)  # where there is none, none is made
    with alone(Path(out).absolute()):
        return _add(passages, out, settings, seed, progress, replacing=False)


def replace_passages(
    out: str,
    passages: Sequence[str],
    settings: Index,
    *,
    seed: int,
    progress: Progress = lambda what, done: None,
    loaded: Any = None,
) -> Manifest:
    """As `add_passages`, but a passage whose doc_id the index has takes the place of that one, in the same version.

    With `loaded`, the index's encoder, all is done in this process, and needs no Ray: for some thousand passages. Then
    what is killed leaves nothing that holds up another change.
    """
    read_manifest(out)
    with alone(Path(out).absolute()):
        return _add(passages, out, settings, seed, progress, replacing=True, loaded=loaded)


def delete_passages(
    out: str, doc_ids: Sequence[str], settings: Index, *, seed: int, progress: Progress = lambda what, done: None
) -> Manifest:
    """Delete the passages with these doc_ids. Nothing is encoded, and no Ray is needed.

    Raises InputError for a doc_id that the index does not have, for all that it has, for recall below the target, and
    while another process writes the index. Then nothing is changed.
    """
    read_manifest(out)
    with alone(Path(out).absolute()):
        return _delete(sorted(set(doc_ids)), out, settings, seed, progress)


def _delete(doc_ids: Sequence[str], out: str, settings: Index, seed: int, progress: Progress) -> Manifest:
    index = Path(out).absolute()
    build = index / ".build"
    old = read_manifest(index)
    settings = cut_as_built(settings, old)
    inputs: list[Any] = [["deleted", hashlib.blake2b(json.dumps(doc_ids).encode(), digest_size=16).hexdigest()]]
    keep_version(index)
    if is_finished(build, inputs, old.index_version, addition=True):
        return old
    check_files(index, old.every_file, checksums=False)
    rows = rows_of(index, old, doc_ids)
    _check_all_found(index, rows, doc_ids)
    claim(build, inputs, old.space, seed=seed, precision=settings.precision, base=old.index_version, resumable=False)
    try:
        entries = bury(index, old.shards, rows)
        if not entries:
            raise InputError(
                f"no passage of {index} would be left ({old.rows:,} now), and an index has one at least; to have none, "
                "remove the folder"
            )
        manifest = gate_and_publish(
            index,
            settings,
            seed,
            **unchanged(old),
            shards=entries,
            keys=keys_of_living(index, entries),
            rejected=old.rejected,
            cut=dict(Counter(old.cut) - _cut_of(index, old, rows)),
            files={name: file for name, file in old.files.items() if not is_counted(name)},
            settings_shown=old.settings,
            progress=progress,
            rule=RULE if old.lexical is None else old.lexical.rule,
        )
    except InputError:
        clear(build)  # nothing is left to go on with
        raise
    clear(build)
    return manifest


def _add(
    passages: Sequence[str],
    out: str,
    settings: Index,
    seed: int,
    progress: Progress,
    *,
    replacing: bool,
    loaded: Any = None,
) -> Manifest:
    index = Path(out).absolute()
    build = index / ".build"
    old = read_manifest(index)
    here = [fetch(path) for path in passages]
    inputs = [*inputs_of(here), *(["replacing"] if replacing else [])]
    keep_version(index)
    if is_finished(build, inputs, old.index_version, addition=True):
        return old
    if old.lexical is not None and old.lexical.rule != RULE:
        raise InputError(
            f"the words of {index} are by rule {old.lexical.rule} of what a word is, and this version of hybrid-ir "
            f"writes them by rule {RULE}; both in one index would not find each other's passages: {REBUILD}"
        )
    check_files(index, old.every_file)
    settings = cut_as_built(settings, old)
    model = loaded or load_encoder(str(index / "encoder"))
    check_space(str(index), old.space, old.probes, model)
    claim(
        build, inputs, old.space, seed=seed, precision=settings.precision, base=old.index_version,
        resumable=loaded is None,
    )  # fmt: skip
    known = set() if replacing else {doc_id for entry in old.shards for doc_id in doc_ids_of(index, entry)}
    try:
        fragments = ingest(here, build, known.__contains__, progress)
        if loaded is not None and fragments.rejected:
            raise InputError(f"some of the passages cannot be indexed: {', '.join(fragments.rejected)}")
    except InputError:
        clear(build)  # nothing is done yet, so that it need not hold up another change
        raise
    encode_fragments(index / "encoder", fragments, settings, progress, loaded=loaded)
    rows = rows_of(index, old, _doc_ids(fragments)) if replacing else {}
    trained = make_codec(old.codec, old.space["dimension"])
    if not is_flat(old.codec):
        trained = faiss.read_index(str(index / "codec.faiss"))
    (part,) = cut_shards(fragments.row_languages(), fragments.languages, 1, "language", seed)
    name, first_id = next_shard(index), 1 + max(_last_id(index, shard.name) for shard in old.shards)
    entries = write_shards(
        index, fragments, [name], [part], first_id, trained, old.codec, settings, seed, progress,
        here=loaded is not None,
    )  # fmt: skip
    entries = [*bury(index, old.shards, rows), *entries]
    beside = {n: file for n, file in old.files.items() if not is_counted(n)}
    shown = old.settings
    if loaded is None:  # a service refuses what it would reject, and its requests are in no file
        rejects = f"rejected-{name}.jsonl"
        copy_file(build / "rejected.jsonl", index / rejects)
        beside |= describe_files(index, [rejects])
        shown = {**shown, "added": [*shown.get("added", []), *map(str, passages)]}
    manifest = gate_and_publish(
        index,
        settings,
        seed,
        **unchanged(old),
        shards=entries,
        keys=keys_of_living(index, entries) if rows else sorted({*old.metadata_keys, *fragments.keys}),
        rejected=dict(Counter(old.rejected) + Counter(fragments.rejected)),
        cut=dict(Counter(old.cut) - _cut_of(index, old, rows) + Counter(fragments.cut())),
        files=beside,
        settings_shown=shown,
        progress=progress,
    )
    clear(build)
    return manifest


def unchanged(old: Manifest) -> dict[str, Any]:
    """The parts of a manifest (see `make_manifest`) that a change takes from the version that it is made from."""
    return {
        "space": old.space,
        "probes": np.asarray(old.probes, dtype=np.float32),
        "codec": old.codec,
        "candidates": old.candidates,
        "sharding": old.sharding,
        "parent": old.index_version,
        "pieces": old.pieces and old.pieces.how,
    }


def cut_as_built(settings: Index, old: Manifest) -> Index:
    """Long passages are cut as the index was built, and words are written if they were then, whatever is asked for now:
    so passages are found alike whenever they came."""
    tokens, overlap = (None, None) if old.pieces is None else old.pieces.how
    pieces, lexical = Pieces(tokens=tokens, overlap=overlap), old.lexical is not None
    return settings.model_copy(update={"pieces": pieces, "lexical": lexical})


def next_shard(index: Path) -> str:
    """Name of the next shard: no version that is kept has it."""
    taken = [int(shard.name) for version in kept_versions(index) for shard in version.shards]
    return f"{max(taken) + 1:03d}"


def _last_id(index: Path, shard: str) -> int:
    return int(np.load(index / "shards" / shard / "ids.npy", mmap_mode="r").max())


def _doc_ids(fragments: Fragments) -> list[str]:
    tables = (PassageTable(fragments.path(n) / "passages.arrow") for n in range(len(fragments.counts)))
    return [doc_id for table in tables for batch in table.column("doc_id") for doc_id in batch]


def _check_all_found(index: Path, rows: Rows, doc_ids: Sequence[str]) -> None:
    there: set[str] = set()
    for name, some in rows.items():
        table = PassageTable(index / "shards" / name / "passages.arrow")
        there.update(table[row].doc_id for row in some.tolist())
    if missing := [doc_id for doc_id in doc_ids if doc_id not in there]:
        shown = ", ".join(f"{doc_id!r:.80}" for doc_id in missing[:3])
        raise NoPassage(
            f"{index} has no passage {shown}{f' and {len(missing) - 3:,} more' if len(missing) > 3 else ''}; nothing "
            "was deleted: take it off the list and run the command again"
        )


def _cut_of(index: Path, manifest: Manifest, rows: Rows) -> Counter[str]:
    """How many of the passages in these rows are longer than the encoder reads, by language: read again, for a shard
    does not say of which passage it was."""
    cut: Counter[str] = Counter()
    if not manifest.cut or not rows:
        return cut
    reader = TextReader.of(load_encoder(str(index / "encoder")))
    for name, some in rows.items():
        table = PassageTable(index / "shards" / name / "passages.arrow").take(some)
        languages = table["language"].to_pylist()
        was_cut = reader.read(table["text"].to_pylist(), "document", languages).cut
        cut.update(language for language, one in zip(languages, was_cut, strict=True) if one)
    return cut
