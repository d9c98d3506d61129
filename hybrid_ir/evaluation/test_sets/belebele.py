"""Belebele: questions on short passages that stand in all of 122 languages and forms, as a test of retrieval.

In: a folder of upstream's JSON lines, a file a language, or `hub:facebook/belebele`. Out: a `JudgedSet` with the
queries and passages of the languages that are asked for in one pool, where all translations of a passage answer.

    data/deu_Latn.jsonl: {"link": ..., "question_number": 1, "flores_passage": ..., "question": ..., "mc_answer1": ...}

The choices of an answer are not read. A link is a passage, in each language once, and equal questions of a language
are one query, as in mteb's `BelebeleRetrieval`; so a pair of languages is what mteb calls a subset.

Looked up: the README of facebookresearch/belebele, the columns and file list of facebook/belebele on the hub, and
mteb's `BelebeleRetrieval` (mteb 2.26.24), whose statistics have 488 passages and 900 questions a language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.data import LanguageFiles, checked_text, files_by_language, read_json_lines, resolve_files
from hybrid_ir.evaluation.test_sets.judged_set import JudgedSet, Judgement, LanguageText, check_set
from hybrid_ir.types import OUTER_SPACE, InputError


def belebele_files(root: str, languages: Sequence[str] | None) -> LanguageFiles:
    """The file of each language. Raises InputError where none is asked for, and for one that is not there."""
    if languages is None:
        raise InputError(
            "belebele needs --languages, such as de,en,sw: a question keeps its best passages of each language, which "
            "for all of the 122 files together are tens of gigabytes"
        )
    tagged = [(path.stem, path) for path in resolve_files(root, "*.jsonl")]
    return files_by_language(tagged, languages, root)


def load_belebele(files: Mapping[str, Path]) -> JudgedSet:
    """The set of a file a language, by code. Raises InputError for a malformed line, naming it.

    Where two rows give a link's passage, the first counts.
    """
    passages: dict[tuple[str, str], LanguageText] = {}
    queries: dict[tuple[str, str], LanguageText] = {}
    links: dict[str, int] = {}  # in the order in which they are first seen
    asked: dict[str, set[str]] = {}  # link -> the queries, of all languages, that it answers
    for code, path in files.items():
        for where, record in read_json_lines(path):
            link, passage, question = _read_row(where, record)
            number = links.setdefault(link, len(links) + 1)
            passages.setdefault((code, link), LanguageText(f"{code}/p{number}", code, passage, where))
            unseen = LanguageText(f"{code}/q{len(queries) + 1}", code, question, where)
            asked.setdefault(link, set()).add(queries.setdefault((code, question), unseen).text_id)
    judgements = [
        Judgement(query_id, passage.text_id, 1, passage.where)
        for (_, link), passage in passages.items()
        for query_id in sorted(asked[link])
    ]
    return check_set(queries.values(), judgements, lambda: iter(passages.values()))


def _read_row(where: str, record: Mapping[str, Any]) -> list[str]:
    """The link, the passage and the question."""
    texts = [record.get(name) for name in ("link", "flores_passage", "question")]
    if not all(isinstance(text, str) and text.strip(OUTER_SPACE) for text in texts):
        raise InputError(
            f"{where} is not a question of Belebele (link, flores_passage, question): "
            f"found {', '.join(record) or 'nothing'}; copy the file again"
        )
    return [checked_text(where, str(text).strip(OUTER_SPACE)) for text in texts]
