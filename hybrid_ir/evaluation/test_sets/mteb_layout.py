"""Test sets as mteb publishes them: MLDR, NeuCLIR, MKQA and XPQA, whose subsets have a pool of passages each.

In: a folder, or `hub:OWNER/NAME`, of mteb's Parquet files. Out: a `JudgedSet` for each subset, checked.

    de-corpus/test-00000-of-00001.parquet     id, title, text
    de-queries/test-00000-of-00001.parquet    id, text
    de-qrels/test-00000-of-00001.parquet      query-id, corpus-id, score

A subset is a language, or two of them (XPQA): `deu-eng` has German passages and English queries.

Looked up: names of folders and columns in mteb's own loader and uploader (`RetrievalDatasetLoader` and
`AbsTaskRetrieval` of mteb 2.26.24), and in the file lists of mteb/XPQARetrieval and mteb/MultiLongDocRetrieval on the
hub; the order of languages in mteb's `XPQARetrieval` of May 2024. Queries of NeuCLIR are here in the language of the
documents: mteb's statistics have Chinese queries of 24 characters on average, and Russian ones of 86.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_ir.data import parquet_rows, resolve_files
from hybrid_ir.evaluation.test_sets.judged_set import JudgedSet, Judgement, check_set, tagged_language
from hybrid_ir.evaluation.test_sets.layouts import judgements_of, texts_of
from hybrid_ir.evaluation.test_sets.measure import MEASURES
from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError


class Published(NamedTuple):
    """A data set of mteb's: the split that it is measured on, and the measures, mteb's main one first."""

    split: str = "test"
    measures: tuple[str, ...] = MEASURES


MTEB_SETS = {
    "mldr": Published(),
    "neuclir": Published(measures=("nDCG@20", *MEASURES)),
    "mkqa": Published("train"),
    "xpqa": Published(),
}


def load_mteb_set(root: str, *, split: str = "test", languages: Sequence[str] | None = None) -> dict[str, JudgedSet]:
    """The subsets by their names. `languages` keeps those that have no other language in queries or passages.

    Raises InputError as `check_set` does, for a missing file or column, naming it, and for a language of no subset.
    """
    found = {path.parent.name.removesuffix("-qrels") for path in resolve_files(root, f"*-qrels/{split}-*.parquet")}
    subsets = {name: subset_languages(name, root) for name in sorted(found)}
    if languages is not None:
        wanted = {language_code(tag) for tag in languages}
        kept = {name: codes for name, codes in subsets.items() if wanted.issuperset(codes)}
        if missing := sorted(wanted.difference(*kept.values())):
            raise InputError(
                f"{root} has no subset with {', '.join(missing)} and no language but those asked for; "
                f"its subsets are: {' '.join(subsets)}"
            )
        subsets = kept
    return {name: _subset(root, name, split, *codes) for name, codes in subsets.items()}


def subset_languages(name: str, where: str) -> tuple[str, str]:
    """The languages of the passages and of the queries: de and en of `deu-eng`, de and de of `de`."""
    passages, _, queries = name.partition("-")
    return tagged_language(passages, where), tagged_language(queries or passages, where)


def _subset(root: str, name: str, split: str, passage_language: str, query_language: str) -> JudgedSet:
    corpus, queries, qrels = (
        resolve_files(root, f"{name}-{part}/{split}-*.parquet") for part in ("corpus", "queries", "qrels")
    )
    return check_set(
        texts_of(_records(queries), ["id", "_id"], query_language),
        _judgements(qrels),
        lambda: texts_of(_records(corpus), ["id", "_id"], passage_language),
    )


def _records(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files:
        for number, row in parquet_rows(path):
            if not isinstance(row, dict):
                raise InputError(f"row {number} of {path} is not UTF-8; copy the file again")
            yield f"{path}:{number}", row


def _judgements(files: Sequence[Path]) -> Iterator[Judgement]:
    return judgements_of(_records(files), ("query-id", "corpus-id", "score"), "copy the file again")
