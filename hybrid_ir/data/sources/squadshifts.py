"""SQuADShifts (English): questions on paragraphs of Wikipedia, the New York Times, Reddit and Amazon.

In: a folder of `{subset}_v1.0.json` or of Parquet in folders by subset, or `hub:OWNER/NAME@REVISION`.
Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.data.find_files import resolve_files
from hybrid_ir.data.groups import checked_group, passage_id
from hybrid_ir.data.read_files import parquet_rows
from hybrid_ir.data.sources.squad import each_question, load_squad
from hybrid_ir.types import InputError, Passage, Records


def read_squadshifts(root: str | Path, subsets: Sequence[str] = ("new_wiki", "nyt", "reddit", "amazon")) -> Records:
    """A question and its paragraph. A document is an article where the subset names more than one, else a paragraph."""
    for subset in subsets:
        # Upstream names one file differently from its subset: amazon_reviews_v1.0.json.
        patterns = (f"*{subset}_v1.0.json*", f"*{subset}_reviews_v1.0.json*", f"*{subset}/*.parquet")
        rows = [row for path in resolve_files(root, *patterns) for row in _read_questions(path)]
        titled = len({row["title"] for row in rows}) > 1
        for row in rows:
            doc_id = passage_id("en", row["context"] or "")
            yield from checked_group(
                f"{subset}:{row['id']}",
                f"{subset}/{row['id']}",
                f"{subset}/{row['title'] if titled else doc_id}",
                {"en": row["question"] or ""},
                {"en": [Passage(doc_id, row["context"] or "")]},
            )


def _read_questions(path: Path) -> Iterator[dict[str, Any]]:
    """The id, title, context and question of each question, from JSON or Parquet."""
    if ".json" in path.name:
        for _, article, paragraph, qa in each_question(load_squad(path)):
            yield {**qa, "title": article["title"], "context": paragraph["context"]}
        return
    try:
        for number, row in parquet_rows(path):
            if not isinstance(row, dict) or not row.keys() >= {"id", "title", "context", "question"}:
                raise InputError(f"row {number} is not UTF-8, or lacks one of these")
            yield row
    except InputError as error:
        raise InputError(f"{path} has no readable id, title, context and question: {error}") from error
