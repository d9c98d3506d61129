"""MIRACL: questions in 18 languages, with judged passages of the Wikipedia in the question's language.

In: folders of the upstream layout or `hub:OWNER/NAME`, languages and a split. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.data.find_files import resolve_files, the_file
from hybrid_ir.data.groups import checked_group, connect_documents
from hybrid_ir.data.read_files import read_tsv, sift_json_lines
from hybrid_ir.languages import language_codes
from hybrid_ir.types import Passage, Records, Rejected


def read_miracl(root: str | Path, languages: Sequence[str], split: str, corpus_root: str | Path) -> Records:
    """One monolingual group a question.

    Its passages are all that are judged relevant and that the corpus has, by docid, its negatives all that are judged
    irrelevant; a text is title and text. A document is all articles that some question finds relevant; negatives do not
    connect.
    The corpus is read once a language, and only judged passages are kept: at most some tens of MB.
    """
    for code in language_codes(languages):
        topics = the_file(root, f"*topics.miracl-v1.0-{code}-{split}.tsv")
        qrels = the_file(root, f"*qrels.miracl-v1.0-{code}-{split}.tsv")
        corpus = resolve_files(corpus_root, f"*miracl-corpus-v1.0-{code}/docs-*.jsonl*")
        judged: dict[str, tuple[list[str], list[str]]] = {}
        for where, fields in read_tsv(qrels, 4):
            if len(fields) != 4 or fields[3] not in ("0", "1"):
                yield Rejected(where, "not a judgement: query_id, Q0, docid, 0 or 1", "\t".join(fields)[:200])
            else:
                judged.setdefault(fields[0], ([], []))[fields[3] == "1"].append(fields[2])
        document_of = connect_documents([("", article_of(d)) for d in relevant] for _, relevant in judged.values())
        texts = yield from _corpus_texts(corpus, {d for pair in judged.values() for ids in pair for d in ids})
        for where, fields in read_tsv(topics, 2):
            if len(fields) != 2:
                yield Rejected(where, "not a topic: query_id, query", "\t".join(fields)[:200])
                continue
            query_id, query = fields
            irrelevant, relevant = judged.get(query_id, ([], []))
            positives, negatives = (
                [Passage(f"{code}/{d}", texts[d]) for d in sorted({*judged_so}) if d in texts]
                for judged_so in (relevant, irrelevant)
            )
            if not positives:
                reason = "its relevant passages are not in the corpus" if relevant else "no passage is judged relevant"
                yield Rejected(where, reason, query[:200])
                continue
            yield from checked_group(
                where,
                f"{code}/{query_id}",
                f"{code}/{document_of['', article_of(relevant[0])]}",
                {code: query},
                {code: positives},
                {code: negatives} if negatives else None,
            )


def title_and_text(document: Mapping[str, Any]) -> str:
    """Text of a MIRACL or Mr. TyDi passage, as it is trained on and ranked."""
    return f"{document.get('title') or ''} {document['text']}".strip()


def article_of(doc_id: str) -> str:
    """Wikipedia article of a passage: the part of its docid before `#`."""
    return doc_id.partition("#")[0]


def _corpus_texts(corpus: Sequence[Path], wanted: set[str]) -> Generator[Rejected, None, dict[str, str]]:
    """Yields the corpus lines that cannot be read; returns {docid: title and text} of the wanted ones."""
    texts: dict[str, str] = {}
    for path in corpus:
        for _, record in sift_json_lines(path):
            if isinstance(record, Rejected):
                yield record
                continue
            docid = record.get("docid")
            if isinstance(docid, str) and docid in wanted and isinstance(record.get("text"), str):
                texts[docid] = title_and_text(record)
    return texts
