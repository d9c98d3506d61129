"""Who makes versions of an index for a service, one after the other: passages put, a passage deleted. No HTTP, no Ray.

In: an index folder, and a change. Out: the version that was made, on disk and whole; serving it is up to others.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from hybrid_ir.config import Index
from hybrid_ir.encoders import load_encoder
from hybrid_ir.index import (
    BeingWritten,
    Manifest,
    NoPassage,
    delete_passages,
    encoder_folder,
    read_manifest,
    replace_passages,
)
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.storage import is_uri
from hybrid_ir.types import InputError, one_line


class IndexWriter:
    """Keeps the encoder of the index that it wrote to last. Not thread-safe: one change at a time."""

    def __init__(self, patience_s: float = 0.0) -> None:
        """So long after its start it waits for another process that writes the index. The writer whose place it takes
        was killed perhaps, and holds the index until its memory is given back."""
        self._encoder: tuple[str, str, Any] | None = None
        self._patient_until = time.monotonic() + patience_s

    def put(self, index: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Write passages that `passages_of` has checked. A `Written` as plain data. Raises RequestError."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "passages.jsonl"
            path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
            return self._change(index, len(records), records=str(path))

    def delete(self, index: str, doc_id: str) -> dict[str, Any]:
        """Delete one passage. A `Written` as plain data. Raises RequestError: 404 where the index has none such."""
        return self._change(index, 0, doc_id=doc_id)

    def _change(self, index: str, written: int, *, records: str = "", doc_id: str = "") -> dict[str, Any]:
        if is_uri(index):
            raise RequestError(
                409, "not_writable", f"{index} is not a folder: write to it with hybrid-ir index replace, then swap"
            )
        try:
            before, manifest = self._written(index, records, doc_id)
        except NoPassage:
            raise RequestError(
                404, "passage_not_found", f"no passage has the doc_id {doc_id!r:.200}", "doc_id"
            ) from None
        except InputError as error:
            raise RequestError(409, "not_written", f"nothing was changed: {error}") from error
        except OSError as error:
            raise RequestError(
                503, "not_written", f"the index cannot be written to, and is as it was: {one_line(error)}"
            ) from error
        return {
            "index_version": manifest.index_version,
            "parent_version": before.index_version,
            "written": written,
            "deleted": before.rows + written - manifest.rows,
            "passages": manifest.rows,
        }

    def _written(self, index: str, records: str, doc_id: str) -> tuple[Manifest, Manifest]:
        """The versions before and after."""
        while True:
            try:
                before = read_manifest(index)
                settings, seed = _settings_of(before), before.settings.get("seed", 0)
                if records:
                    loaded = self._encoder_of(index, before)
                    return before, replace_passages(index, [records], settings, seed=seed, loaded=loaded)
                return before, delete_passages(index, [doc_id], settings, seed=seed)
            except BeingWritten:
                if time.monotonic() > self._patient_until:
                    raise
                time.sleep(0.2)

    def _encoder_of(self, index: str, manifest: Manifest) -> Any:
        if self._encoder is None or self._encoder[:2] != (index, manifest.space["id"]):
            self._encoder = index, manifest.space["id"], load_encoder(encoder_folder(index, manifest))
        return self._encoder[2]


def _settings_of(manifest: Manifest) -> Index:
    """Those that the index was built or last changed with: its precision, and the target of its recall gate."""
    return Index(**{name: manifest.settings[name] for name in Index.model_fields if name in manifest.settings})
