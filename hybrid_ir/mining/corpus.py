"""A corpus of the user's own, from which negatives are mined beside the store's passages.

In: what `index` reads: JSON lines, Parquet, a folder of them, a store. Out: by language, 64 bits of each passage's id,
text and group, and a file with the passages. What is rejected is written down, and counted by its reason.

Memory: 24 bytes of each passage, 16 of where it is, and while it is read some 70 more, by which a doc_id that comes
twice is found.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_ir.data import Store, is_store
from hybrid_ir.index import IndexedPassage, canonical, read_passages
from hybrid_ir.mining.passage_file import PassageFile
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError, Rejected, key64

_AT_ONCE = 1 << 22  # characters of a language's passages that wait to be written
HELD_OUT = "held out by the store"
OTHER_LANGUAGE = "in a language that no group has"


def id_key(doc_id: str) -> int:
    """An id is one passage, whatever its language."""
    return key64(f"doc_id {doc_id}")


def text_key(text: str) -> int:
    """So is a text: what answers a question answers it under any language that it is filed under."""
    return key64(f"text {text}")


@dataclass
class CorpusPart:
    """The passages of one language, in the order that they were read in."""

    file: PassageFile
    id_C: Any = field(default_factory=lambda: array("q"))
    text_C: Any = field(default_factory=lambda: array("q"))
    group_C: Any = field(default_factory=lambda: array("q"))
    """Equal where passages are translations of each other; empty where nothing says so."""


@dataclass(frozen=True)
class Corpus:
    """What mining keeps of a corpus."""

    parts: dict[str, CorpusPart]
    left_out: dict[str, int]
    """Passages that were good and are not mined, by reason."""
    rejected: dict[str, int]
    """Records that are no passages, by reason."""
    rejects: Path
    """Each of them, an object a line."""

    def as_written(self) -> dict[str, Any]:
        """What the manifest says of it."""
        passages = {language: len(part.id_C) for language, part in self.parts.items()}
        return {"passages": passages, "left_out": self.left_out, "rejected": self.rejected}


def read_corpus(
    paths: Sequence[str],
    store: Store,
    folder: Path,
    group_by: str | None = None,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> Corpus:
    """Read passages of paths or URIs once, and write them to `folder`.

    `group_by` is a key of their metadata: passages that have one value of it are translations of each other. Left out
    is what the store holds out for its tests, by id or text, and what is in a language that it does not train on.
    Raises InputError for a file that cannot be read, a path without one good passage, and a key that no passage has.
    """
    parts = {
        language: CorpusPart(PassageFile(folder / f"{number}.passages"))
        for number, language in enumerate(store.languages)
    }
    waiting: dict[str, list[tuple[str, str]]] = {language: [] for language in parts}
    size: Counter[str] = Counter()
    left_out, reasons = Counter({HELD_OUT: 0, OTHER_LANGUAGE: 0}), Counter()
    held_out, seen, grouped, read = _held_out(store), set(), 0, 0

    def flush(language: str) -> None:
        if waiting[language]:
            ids, texts = zip(*waiting[language], strict=True)
            parts[language].file.append(ids, texts)
            waiting[language].clear()
            size[language] = 0

    rejects = folder / "rejected.jsonl"
    with rejects.open("w", encoding="utf-8") as lines:
        for path in paths:
            here = fetch(path)
            good, wrong, of_store = 0, Counter(), Path(here).is_dir() and is_store(here)
            for item in read_passages(here):
                if isinstance(item, IndexedPassage) and key64(item.doc_id) in seen:
                    item = Rejected(path, "duplicate doc_id", item.doc_id[:200])
                if isinstance(item, Rejected):
                    wrong[item.reason] += 1
                    shown = json.dumps(item._asdict(), ensure_ascii=False)
                    lines.write(shown.encode("utf-8", "backslashreplace").decode() + "\n")
                    continue
                seen.add(key64(item.doc_id))
                good += 1
                read += 1
                if not read % 1000:
                    progress("passages of the corpus read", read)
                language = item.language
                # A store's doc_ids are unique within a language only: its reader puts that before them.
                doc_id = item.doc_id.removeprefix(f"{language}/") if of_store else item.doc_id
                keys = id_key(doc_id), text_key(item.text)
                if language not in parts or not held_out.isdisjoint(keys):
                    left_out[HELD_OUT if language in parts else OTHER_LANGUAGE] += 1
                    continue
                part, group = parts[language], item.metadata.get(group_by) if group_by is not None else None
                part.id_C.append(keys[0])
                part.text_C.append(keys[1])
                if group_by is not None:
                    # A passage without the key is a group of its own.
                    part.group_C.append(keys[0] if group is None else key64(f"group {canonical(group)}"))
                    grouped += group is not None
                waiting[language].append((doc_id, item.text))
                size[language] += len(item.text)
                if size[language] > _AT_ONCE:
                    flush(language)
            reasons += wrong
            if not good:
                why = "; ".join(f"{n} x {reason}" for reason, n in wrong.most_common(3)) or "it holds no record"
                raise InputError(f"no passage of --corpus {path} can be used ({why}); mend it, or leave it out")
    for language in parts:
        flush(language)
    if group_by is not None and not grouped:
        raise InputError(
            f"no passage of {', '.join(paths)} has {group_by!r} in its metadata; name another --group-by, or leave it "
            "out if no passage is the translation of another"
        )
    return Corpus(parts, {name: n for name, n in left_out.items() if n}, dict(reasons), rejects)


def _held_out(store: Store) -> set[int]:
    """Keys of what is in the pools of the store's tests: learned as a wrong answer, it would not be new to them."""
    keys = set()
    for split in (name for name, place in store.manifest["eval"].items() if place):
        for candidate in store.collection(split).candidates:
            keys |= {id_key(candidate.doc_id.partition(":")[2]), text_key(candidate.text)}
    return keys
