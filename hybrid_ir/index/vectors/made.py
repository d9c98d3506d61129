"""Texts in, vectors out: what `hybrid-ir encode` does, with the first stages of an index build.

In: an encoder and files of passages. Out: a folder of vectors, its manifest written last.

Passages are read, checked and cut into fragments as for an index, and the same actors encode them, so that an index of
these vectors has the same bytes as one that is built from the passages. Until the end all of it lies in `OUT/.build`,
where a command that was stopped goes on.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

import hybrid_ir
from hybrid_ir.config import Index
from hybrid_ir.encoders import load_encoder, space_of
from hybrid_ir.index.folder import checksum_of, describe_files
from hybrid_ir.index.fragments import Fragments, ingest
from hybrid_ir.index.ray_stages import Progress, encode_fragments
from hybrid_ir.index.resuming import claim, clear, inputs_of, is_finished, keep_encoder
from hybrid_ir.index.vectors.written import (
    FORMAT,
    IDS,
    MATRIX,
    PARQUET,
    REJECTED,
    VectorsManifest,
    read_vectors_manifest,
    write_matrix,
    write_parquet,
)
from hybrid_ir.index.writing import alone
from hybrid_ir.storage import fetch, write_json
from hybrid_ir.types import InputError

Role = Literal["document", "query"]
Form = Literal["parquet", "npy"]


def encode_passages(
    checkpoint: str,
    passages: Sequence[str],
    out: str,
    settings: Index,
    *,
    role: Role = "document",
    form: Form = "parquet",
    pooling: str = "mean",
    prefixes: tuple[str | None, str | None] = (None, None),
    prompts: Mapping[str, str] | None = None,
    progress: Progress = lambda what, done: None,
) -> VectorsManifest:
    """Write the passages' unit vectors, (rows, D) float32 in the order of the passages, to `out`. Needs a running Ray.

    `role` picks the encoder's prefix: an index holds documents. `prefixes` (query, passage) replace the encoder's own
    where they are not None, and so do `prompts`, by name (`encoder.prompts`). Raises InputError for input that cannot
    be encoded, for a text whose vector is not finite, and for something else at `out`.
    """
    with alone(Path(out).absolute()):
        return _encode(checkpoint, passages, out, settings, role, form, pooling, prefixes, prompts, progress)


def _encode(
    checkpoint: str,
    passages: Sequence[str],
    out: str,
    settings: Index,
    role: Role,
    form: Form,
    pooling: str,
    prefixes: tuple[str | None, str | None],
    prompts: Mapping[str, str] | None,
    progress: Progress,
) -> VectorsManifest:
    place = Path(out).absolute()
    build = place / ".build"
    here = [fetch(path) for path in passages]
    inputs = inputs_of(here)
    if (place / "manifest.json").exists():
        current = read_vectors_manifest(place)
        same = (current.role, current.settings["form"]) == (role, form)
        if is_finished(build, inputs, current.checksum, addition=False) and same:
            return current
        raise InputError(f"{out} holds vectors already; choose another --out")
    if place.is_dir() and any(place.iterdir()) and not build.is_dir():
        raise InputError(f"{out} holds something else than vectors, so it is left alone; choose another --out")
    if settings.pieces.tokens is not None:
        raise InputError(
            f"index.pieces.tokens={settings.pieces.tokens} cuts passages into pieces, and `encode` writes a vector a "
            "passage; set it to null, or give the pieces as passages, with a doc_id each"
        )
    model = load_encoder(
        checkpoint,
        pooling=pooling,  # type: ignore[arg-type]
        query_prefix=prefixes[0],
        passage_prefix=prefixes[1],
        prompts=prompts,
    )
    space = space_of(model)
    # Seed 0: nothing is drawn by lot.
    claim(build, inputs, space, seed=0, precision=settings.precision, role=role)
    fragments = ingest(here, build, progress=progress)
    keep_encoder(model, space, build / "encoder.partial", build / "encoder", checkpoint)
    encode_fragments(build / "encoder", fragments, settings, progress, role=role)
    progress("writing", 0)
    finished = build / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    (write_parquet if form == "parquet" else write_matrix)(fragments, space["dimension"], finished)
    shutil.copyfile(build / REJECTED, finished / REJECTED)
    for name in (PARQUET, MATRIX, IDS):  # of a try that was killed here, in the other form
        (place / name).unlink(missing_ok=True)
    names = sorted(path.name for path in finished.iterdir())
    for name in names:
        os.replace(finished / name, place / name)
    shown = {"encoder": checkpoint, "passages": list(map(str, passages)), "form": form, "precision": settings.precision}
    content = VectorsManifest(
        format=FORMAT,
        kind="vectors",
        space=space,
        role=role,
        prefix=space["prefixes"][role],
        dimension=space["dimension"],
        rows=fragments.rows,
        languages=_by_language(fragments),
        rejected=fragments.rejected,
        cut=fragments.cut(),
        files=describe_files(place, names),
        settings=shown,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={
            "hybrid-ir": hybrid_ir.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("pyarrow", "sentence-transformers", "torch")},
        },
    ).model_dump(mode="json")
    content["checksum"] = checksum_of(json.loads(json.dumps(content)))
    write_json(place / "manifest.json", content)
    clear(build)
    return VectorsManifest.model_validate(content)


def _by_language(fragments: Fragments) -> dict[str, int]:
    counts = np.bincount(fragments.row_languages(), minlength=len(fragments.languages)).tolist()
    return dict(sorted(zip(fragments.languages, counts, strict=True)))
