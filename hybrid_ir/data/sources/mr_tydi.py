"""Mr. TyDi: questions in eleven languages, each with passages of the Wikipedia in its language.

In: a folder of the upstream layout or `hub:OWNER/NAME`, languages and a split. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.data.find_files import resolve_files
from hybrid_ir.data.groups import checked_group, connect_documents
from hybrid_ir.data.read_files import sift_json_lines
from hybrid_ir.data.sources.miracl import article_of, title_and_text
from hybrid_ir.languages import upstream_names
from hybrid_ir.types import Passage, Records, Rejected

# As the hub's folders are called; CLDR's name of `bn` is Bangla.
NAMES = {
    "ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ja": "japanese",
    "ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu", "th": "thai",
}  # fmt: skip


def read_mr_tydi(root: str | Path, languages: Sequence[str], split: str) -> Records:
    """One monolingual group a question, of all its positives and negatives that have a docid and a text.

    A document is all articles that some question has positives in; negatives do not connect. Each file is read twice,
    first for these.
    """
    for code, name in upstream_names("Mr. TyDi", NAMES, languages).items():
        for path in resolve_files(root, f"*mrtydi-v1.1-{name}/{split}.jsonl*"):
            document_of = connect_documents(
                [("", article_of(passage.doc_id)) for passage in _passages(record, "positive_passages", code)]
                for _, record in sift_json_lines(path)
            )
            for where, record in sift_json_lines(path):
                if isinstance(record, Rejected):
                    yield record
                    continue
                query_id, query = record.get("query_id"), record.get("query")
                positives = _passages(record, "positive_passages", code)
                negatives = _passages(record, "negative_passages", code)
                if not isinstance(query_id, str) or not isinstance(query, str) or not positives:
                    yield Rejected(where, "no query_id, query or positive passage with its text", str(record)[:200])
                    continue
                yield from checked_group(
                    where,
                    f"{code}/{query_id}",
                    document_of["", article_of(positives[0].doc_id)],
                    {code: query},
                    {code: positives},
                    {code: negatives} if negatives else None,
                )


def _passages(record: dict[str, Any] | Rejected, field: str, code: str) -> list[Passage]:
    """The passages of a record's list that have a docid and a text."""
    passages = [] if isinstance(record, Rejected) else record.get(field)
    return [
        Passage(f"{code}/{passage['docid']}", title_and_text(passage))
        for passage in (passages if isinstance(passages, list) else ())
        if isinstance(passage, dict) and all(isinstance(passage.get(key), str) for key in ("docid", "text"))
    ]
