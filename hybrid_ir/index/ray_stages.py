"""The stages of a build that run on many nodes: Ray Data actors encode fragments, Ray tasks write shards.

In: fragments and the codec. Out: vectors beside the fragments, shards in the index. The folder must be one that all
nodes see. What an earlier try has done is not done again.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import ray.data
import ray.exceptions

from hybrid_ir.config import Index
from hybrid_ir.encoders import TextReader, cut_into_pieces, encode, load_encoder
from hybrid_ir.index.folder import ShardEntry
from hybrid_ir.index.fragments import Fragments, save_array
from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.index.pieces.table import PIECES
from hybrid_ir.index.vectors.checks import first_fault
from hybrid_ir.index.writing import write_one_shard
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError

Progress = Callable[[str, int], None]


class _EncodeFragment:
    """Ray Data's stage: a fragment's number in, its passage count out; its vectors are on disk then.

    `fault` is empty, or says which passage has a vector that no index can hold: Ray Data would wrap what is raised here
    until nobody knew it.
    """

    def __init__(self, encoder: Any, fragments: Fragments, settings: Index, role: str = "document") -> None:
        """`encoder` is its folder, or the encoder itself."""
        loaded = not isinstance(encoder, str)
        self._model = encoder if loaded else load_encoder(encoder, device="cuda" if settings.gpus_per_actor else "cpu")
        self._fragments, self._settings, self._role = fragments, settings, role

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        precision, token_budget = self._settings.precision, self._settings.token_budget
        done, faults = [], []
        for folder in (self._fragments.path(int(n)) for n in rows["fragment"]):
            passages = PassageTable(folder / "passages.arrow")
            whole, of_whole = (
                [value for batch in passages.column(name) for value in batch] for name in ("text", "language")
            )
            texts, languages, table = self._pieces(whole, of_whole)
            cut = np.zeros(len(texts), dtype=bool)
            vectors = encode(
                self._model,
                texts,
                role=self._role,
                languages=languages,
                precision=precision,
                token_budget=token_budget,
                cut=cut,
            )
            done.append(len(whole))
            if (fault := first_fault(vectors)) is not None:
                row, what = fault
                row = row if table is None else int(table[row, 0])
                doc_id = passages[row].doc_id
                faults.append(
                    f"the encoder's vector of passage {doc_id!r:.80} is {what}; its weights may be damaged, or too "
                    f"large for index.precision={precision}: try index.precision=fp32, or another encoder"
                )
                continue
            faults.append("")
            if table is not None:
                save_array(folder / PIECES, table)
                cut = np.isin(np.arange(len(whole)), table[cut, 0])
            save_array(folder / "cut.npy", cut)
            save_array(folder / "vectors.npy", vectors)
        return {"passages": np.asarray(done), "fault": np.asarray(faults, dtype=object)}

    def _pieces(self, texts: list[str], languages: list[str]) -> tuple[list[str], list[str], np.ndarray | None]:
        """What is encoded of the texts, in which languages, and which part of which text that is; None = each as a
        whole."""
        if self._settings.pieces.how is None:
            return texts, languages, None
        tokens, overlap = self._settings.pieces.how
        reader = TextReader.of(self._model)
        table = cut_into_pieces(reader, texts, languages, tokens=tokens, overlap=overlap, role=self._role)
        pieces = [(texts[row][start:end], languages[row]) for row, start, end in table.tolist()]
        return [text for text, _ in pieces], [language for _, language in pieces], table


def encode_fragments(
    encoder: Path,
    fragments: Fragments,
    settings: Index,
    progress: Progress,
    *,
    role: str = "document",
    loaded: Any = None,
) -> None:
    """Encode every fragment that an earlier try has not, with the encoder in a folder that all nodes see, or with one
    that is `loaded` in this process.

    Raises InputError for a text whose vector is not finite, or zero.
    """
    missing = [n for n in range(len(fragments.counts)) if not fragments.encoded(n)]
    done = fragments.rows - sum(fragments.counts[n] for n in missing)
    progress("encoded", done)
    if not missing:
        return
    arguments = (str(encoder), fragments, settings, role)
    here = None if loaded is None else _EncodeFragment(loaded, *arguments[1:])

    units = [{"fragment": n} for n in missing]
    for row in rows_of_actors(_EncodeFragment, arguments, units, settings) if here is None else _rows_here(here, units):
        if row["fault"]:
            raise InputError(row["fault"])
        done += row["passages"]
        progress("encoded", done)


def rows_of_actors(
    stage: type, arguments: tuple[Any, ...], units: list[dict[str, int]], settings: Index
) -> Iterator[dict[str, Any]]:
    """Rows that actors of a stage, made with these arguments, make of the units, a unit at a time, as they come."""

    def dataset() -> ray.data.Dataset:
        return _dataset(units).map_batches(
            stage,
            fn_constructor_args=arguments,
            batch_size=1,
            num_cpus=settings.cpus_per_actor,
            num_gpus=settings.gpus_per_actor,
            compute=ray.data.ActorPoolStrategy(size=min(settings.actors, len(units))),
        )

    return _rows(dataset)


def write_shards(
    index: Path,
    fragments: Fragments,
    names: Sequence[str],
    parts: Sequence[np.ndarray],
    first_id: int,
    trained: Any,
    codec: str,
    settings: Index,
    seed: int,
    progress: Progress,
    *,
    here: bool = False,
) -> list[ShardEntry]:
    """Write every shard that an earlier try has not, in parallel. A task holds its shard and all rows' languages."""
    # A shard that was written for another cut or codec is written again.
    cut = {"codec": codec, "shards": len(names), "sharding": settings.sharding, "first_id": first_id, "seed": seed}
    if settings.lexical:
        cut["lexical"] = True

    def write_one(name: str, part: np.ndarray, empty: np.ndarray) -> ShardEntry:
        return write_one_shard(
            index, name, part, first_id, fragments, faiss.deserialize_index(empty), codec, fragments.keys,
            lexical=settings.lexical,
        )  # fmt: skip

    return write_each(
        index, names, parts, faiss.serialize_index(trained), cut, write_one, settings, progress, here=here
    )


def write_each(
    index: Path,
    names: Sequence[str],
    parts: Sequence[np.ndarray],
    shared: np.ndarray,
    cut: dict[str, Any],
    write_one: Callable[[str, np.ndarray, np.ndarray], ShardEntry],
    settings: Index,
    progress: Progress,
    *,
    here: bool = False,
) -> list[ShardEntry]:
    """Write every shard that an earlier try with the same `cut` has not, in parallel, or one by one in this process:
    `write_one` of its name, its part (of which a row is a passage), and what all share."""
    put, get = (_same, _same) if here else (ray.put, ray.get)
    build, everyones = index / ".build", put(shared)
    write = [{"number": n} for n, name in enumerate(names) if _written(build / f"shard-{name}.json", cut) is None]
    given = {each["number"]: put(parts[each["number"]]) for each in write}

    def write_some(rows: Any) -> Any:
        sizes = []
        for n in map(int, rows["number"]):
            part = get(given[n])
            entry = write_one(names[n], part, get(everyones))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            done = {"cut": cut, "entry": entry.model_dump(mode="json"), "peak_memory_mb": round(peak)}
            write_json(build / f"shard-{names[n]}.json", done)
            sizes.append(len(part))
        return {"rows": np.asarray(sizes)}

    done = sum(map(len, parts)) - sum(len(parts[w["number"]]) for w in write)
    if write:

        def dataset() -> ray.data.Dataset:
            return _dataset(write).map_batches(
                write_some,
                batch_size=1,
                num_cpus=settings.cpus_per_actor,
                compute=ray.data.TaskPoolStrategy(size=settings.actors),
            )

        for row in _rows_here(write_some, write) if here else _rows(dataset):
            done += row["rows"]
            progress("shards", done)
    entries = [_written(build / f"shard-{name}.json", cut) for name in names]
    return [entry for entry in entries if entry is not None]


def _written(marker: Path, cut: dict[str, Any]) -> ShardEntry | None:
    if not marker.is_file():
        return None
    content = json.loads(marker.read_text(encoding="utf-8"))
    return ShardEntry.model_validate(content["entry"]) if content.get("cut") == cut else None


def _dataset(items: list[dict[str, int]]) -> ray.data.Dataset:
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items(items, override_num_blocks=len(items))


def _same(value: Any) -> Any:
    return value


def _rows_here(stage: Callable[[Any], dict[str, np.ndarray]], items: list[dict[str, int]]) -> Iterator[dict[str, Any]]:
    """Rows that a stage makes of the items, one after the other in this process."""
    for item in items:
        made = stage({name: np.asarray([value]) for name, value in item.items()})
        yield {name: values[0] for name, values in made.items()}


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
        while cause is not None and not isinstance(cause, InputError | OSError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise (cause or error) from None
