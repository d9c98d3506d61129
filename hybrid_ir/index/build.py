"""What a user asks of an index first: build one, verify one. `changes` has what becomes of one that is there.

In: an encoder and files of passages, or an index folder. Out: the index folder, its manifest written last.

A passage goes through `passages` (read and checked), `fragments` (cut into pieces on disk), `ray_stages` (encoded),
`codec` (trained on a sample), `writing` (cut into shards, which tasks of `ray_stages` write) and `recall` (measured
before the manifest is written). A build that is killed goes on where it was (`resuming`): fragments that are encoded
and shards that are written stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.config import Index
from hybrid_ir.encoders import TextReader, check_space, cut_into_pieces, load_encoder, probe_vectors, space_of
from hybrid_ir.index.codec import ROWS_PER_SHARD, default_codec, make_codec
from hybrid_ir.index.folder import (
    Manifest,
    check_files,
    local_files,
    read_manifest,
)
from hybrid_ir.index.fragments import ingest
from hybrid_ir.index.query import is_flat
from hybrid_ir.index.ray_stages import Progress, encode_fragments, write_shards
from hybrid_ir.index.recall import gate_and_publish, recall_gate
from hybrid_ir.index.resuming import claim, clear, codec_of, copy_file, inputs_of, is_finished, keep_encoder
from hybrid_ir.index.terms.counts import check_words
from hybrid_ir.index.vectors.checks import check_agreement
from hybrid_ir.index.vectors.given import find_vectors, open_vectors
from hybrid_ir.index.vectors.placed import place_vectors
from hybrid_ir.index.writing import alone, cut_shards, keep_version, open_shards
from hybrid_ir.storage import fetch
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
    prompts: Mapping[str, str] | None = None,
    vectors: str | None = None,
    trust_vectors: bool = False,
    progress: Progress = lambda what, done: None,
) -> Manifest:
    """Encode the passages with the checkpoint and write the index to `out`. Needs a running Ray.

    `prefixes` (query, passage) replace the checkpoint's own where they are not None, and so do `prompts`, by name
    (`encoder.prompts`). `vectors`, a folder of
    `encode_passages` or a file of the user's, are taken instead of encoding; `trust_vectors` where they do not say that
    this encoder made them. Raises InputError for input that cannot be indexed, for another index or another build at
    `out`, and when the recall gate fails.
    """
    with alone(Path(out).absolute()):
        return _build(
            checkpoint, passages, out, settings, seed, pooling, prefixes, prompts, vectors, trust_vectors, progress
        )


def _build(
    checkpoint: str,
    passages: Sequence[str],
    out: str,
    settings: Index,
    seed: int,
    pooling: str,
    prefixes: tuple[str | None, str | None],
    prompts: Mapping[str, str] | None,
    vectors: str | None,
    trust_vectors: bool,
    progress: Progress,
) -> Manifest:
    index = Path(out).absolute()
    build = index / ".build"
    here = [fetch(path) for path in passages]
    found = None if vectors is None else find_vectors(vectors, trusted=trust_vectors)
    inputs = inputs_of(here if found is None else [*here, str(found.here)])
    if (index / "manifest.json").exists():
        current = read_manifest(index)
        keep_version(index)
        if is_finished(build, inputs, current.index_version, addition=False):
            return current
        raise InputError(
            f"{out} is an index already; choose another --out, or add to it: "
            f"hybrid-ir index add --index {out} --passages ..."
        )
    if index.is_dir() and any(index.iterdir()) and not build.is_dir():
        raise InputError(f"{out} holds something that is not an index, so it is left alone; choose another --out")
    model = load_encoder(
        checkpoint,
        pooling=pooling,  # type: ignore[arg-type]
        query_prefix=prefixes[0],
        passage_prefix=prefixes[1],
        prompts=prompts,
    )
    space = space_of(model)
    if settings.pieces.how is not None:  # in a second, before anything is read
        cut_into_pieces(TextReader.of(model), [], tokens=settings.pieces.how[0], overlap=settings.pieces.how[1])
    if settings.codec is not None:
        make_codec(settings.codec, space["dimension"])
    if found is not None and settings.pieces.tokens is not None:
        raise InputError(
            f"index.pieces.tokens={settings.pieces.tokens} cuts passages into pieces, and --vectors has a vector a "
            "passage; leave out one of the two, or give the pieces as passages, with a doc_id each"
        )
    given = None if found is None else open_vectors(found, space)
    claim(build, inputs, space, seed=seed, precision=settings.precision, pieces=settings.pieces.how)
    fragments = ingest(here, build, progress=progress)
    shown: dict[str, Any] = {"checkpoint": checkpoint, "passages": list(map(str, passages)), "seed": seed}
    if given is not None:
        try:
            taken = place_vectors(given, fragments, build, progress)
            if given.space is None:
                progress("comparing vectors", 0)
                taken |= check_agreement(model, fragments, settings.precision, given.path)
        except InputError:
            clear(build)  # so that the same command takes them once they are mended
            raise
        shown["vectors"] = taken
    keep_encoder(model, space, build / "encoder", index / "encoder", checkpoint)
    if given is None:
        encode_fragments(index / "encoder", fragments, settings, progress)
    count = settings.shards or min(-(-fragments.n_vectors // ROWS_PER_SHARD), fragments.rows)
    if count > fragments.rows:
        raise InputError(f"index.shards={count} is more than there are passages ({fragments.rows})")
    codec = settings.codec or default_codec(fragments.n_vectors, count)
    progress("training the codec", 0)
    trained = codec_of(build, codec, fragments, space["dimension"], seed)
    if not is_flat(codec):
        copy_file(build / "codec.faiss", index / "codec.faiss")
    names = [f"{n:03d}" for n in range(count)]
    parts = cut_shards(fragments.row_languages(), fragments.languages, count, settings.sharding, seed)
    entries = write_shards(index, fragments, names, parts, 0, trained, codec, settings, seed, progress)
    copy_file(build / "rejected.jsonl", index / "rejected.jsonl")
    manifest = gate_and_publish(
        index,
        settings,
        seed,
        space=space,
        probes=probe_vectors(model, settings.precision),
        codec=codec,
        candidates=settings.candidates,
        sharding=settings.sharding,
        shards=entries,
        keys=fragments.keys,
        rejected=fragments.rejected,
        cut=fragments.cut(),
        pieces=settings.pieces.how,
        settings_shown=shown,
        progress=progress,
    )
    clear(build)
    return manifest


def verify_index(out: str, settings: Index, *, seed: int) -> Manifest:
    """Check everything that can be: files, checksums, counts of rows and of words, the encoder's space id and probes,
    recall at the manifest's nprobe. Returns the manifest with the recall that was measured. Raises InputError for the
    first fault."""
    manifest = read_manifest(out)
    index = local_files(out, manifest.every_file)
    check_files(index, manifest.files)
    shards = open_shards(index, manifest)
    counted: Counter[str] = Counter()
    for shard in shards:
        counted.update(shard.entry.living)
    if counted != manifest.languages:
        raise InputError(
            f"{out}: the shards hold {dict(counted)}, the manifest says {manifest.languages}; build the index again"
        )
    check_words(index, manifest)
    check_space(str(index), manifest.space, manifest.probes, load_encoder(str(index / "encoder")))
    _, recall = recall_gate(
        shards, target=settings.recall_target, sample=settings.recall_sample, seed=seed, nprobe=manifest.nprobe
    )
    return manifest.model_copy(update={"recall": recall})
