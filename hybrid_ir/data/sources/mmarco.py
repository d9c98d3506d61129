"""mMARCO: MS MARCO's training triples, parallel in several languages.

In: a folder of the upstream layout or `hub:OWNER/NAME`, and languages. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from hybrid_ir.data.find_files import the_file
from hybrid_ir.data.groups import checked_group, connect_documents
from hybrid_ir.data.read_files import read_tsv
from hybrid_ir.languages import upstream_names
from hybrid_ir.types import InputError, Passage, Records, Rejected

TRIPLES_AT_ONCE = 1024
# As the hub's data/google/collections and data/google/queries/train spell them.
NAMES = {
    "ar": "arabic", "de": "german", "en": "english", "es": "spanish", "fr": "french", "hi": "hindi", "id": "indonesian",
    "it": "italian", "ja": "japanese", "nl": "dutch", "pt": "portuguese", "ru": "russian", "vi": "vietnamese",
    "zh": "chinese",
}  # fmt: skip


def read_mmarco(root: str | Path, languages: Sequence[str], limit: int | None = None) -> Records:
    """A query, its positive and a hard negative, in every language asked for: one group a triple.

    The first `limit` triples are read (None = all 39.8M). A document is all queries and positives that triples connect.
    The triples are read twice, first for the documents: that takes some 300 bytes a distinct query or positive (0.3 GB
    for all). Texts stay on disk, memory-mapped by `datasets` (whose cache takes 3 to 6 GB a language); memory holds
    16 bytes of index a passage, 140 MB a language.
    """
    names = upstream_names("mMARCO", NAMES, languages)
    triples = the_file(root, "data/triples.train.ids.small.tsv")
    collections = {c: the_file(root, f"data/google/collections/{n}_collection.tsv") for c, n in names.items()}
    questions = {c: the_file(root, f"data/google/queries/train/{n}_queries.train.tsv") for c, n in names.items()}

    def rows() -> Iterator[tuple[str, list[str]]]:
        return islice(read_tsv(triples, 3), limit)

    links = {(fields[0], fields[1]) for _, fields in rows() if _are_ids(fields)}
    document_of = connect_documents((("query", query), ("passage", passage)) for query, passage in links)
    del links
    passages_of = {code: open_texts(path) for code, path in collections.items()}
    queries_of = {code: open_texts(path) for code, path in questions.items()}
    stream = rows()
    while chunk := list(islice(stream, TRIPLES_AT_ONCE)):
        for where, fields in chunk:
            if not _are_ids(fields):
                yield Rejected(where, "not three ids", "\t".join(fields)[:200])
        good = [(where, fields) for where, fields in chunk if _are_ids(fields)]
        if not good:
            continue
        columns = [
            {code: look_up([int(fields[i]) for _, fields in good]) for code, look_up in texts_of.items()}
            for i, texts_of in enumerate((queries_of, passages_of, passages_of))
        ]
        for row, (where, (query, positive, negative)) in enumerate(good):
            queries, positives, negatives = (
                {code: text for code, texts in column.items() if (text := texts[row]) is not None} for column in columns
            )
            yield from checked_group(
                where,
                f"{query}/{positive}/{negative}",
                document_of["query", query],
                queries,
                {code: [Passage(f"{code}/{positive}", text)] for code, text in positives.items()},
                {code: [Passage(f"{code}/{negative}", text)] for code, text in negatives.items()},
            )


def open_texts(path: Path) -> Callable[[Sequence[int]], list[str | None]]:
    """A look-up of texts by id (None: no such id) in a file of `id TAB text` lines, memory-mapped by `datasets`."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        table = datasets.load_dataset(
            "csv",
            data_files=glob.escape(str(path)),
            split="train",
            sep="\t",
            names=["id", "text"],
            features=datasets.Features({"id": datasets.Value("int64"), "text": datasets.Value("string")}),
            # As the file is: a quote, the word "null" and a lone carriage return mean nothing to it.
            quoting=3,
            na_filter=False,
            lineterminator="\n",
            encoding_errors="replace",
        )
    except (DatasetGenerationError, ValueError) as error:  # ValueError: an empty file
        reason = str(error.__cause__ or error)[:200]
        raise InputError(f"{path} is not lines of an id, a tab and a text ({reason}); copy it again") from error
    ids = table.data.column("id").to_numpy()
    order = np.argsort(ids, kind="stable")
    ids = ids[order]

    def texts_of(wanted: Sequence[int]) -> list[str | None]:
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        found = ids[at] == np.asarray(wanted)
        texts = iter(table[order[at[found]].tolist()]["text"])
        return [next(texts) if there else None for there in found]

    return texts_of


def _are_ids(fields: Sequence[str]) -> bool:
    return len(fields) == 3 and all(field.isascii() and field.isdigit() and len(field) < 19 for field in fields)
