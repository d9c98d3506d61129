"""LAReQA's tests XQuAD-R and MLQA-R: a question, and in each language the *sentence* that holds the answer.

In: a folder of `{language}.json`, SQuAD's format with the sentences of each paragraph.
Out: a stream of `Group | Rejected`, or the `Collection` that LAReQA ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.data.find_files import check_folder, files_by_language
from hybrid_ir.data.groups import connect_documents, queries_of
from hybrid_ir.data.read_files import checked_text
from hybrid_ir.data.sources.squad import Question, join_questions, linked_articles, load_squad, questions_of
from hybrid_ir.types import OUTER_SPACE, Candidate, Collection, Group, InputError, Passage, Records, Rejected


def read_lareqa(folder: str | Path, languages: Sequence[str] | None = None) -> Records:
    """One group a question, joined over languages by its id.

    A document is an article with all that share a question with it.
    """
    articles, left_out = _load_lareqa(folder, languages)
    yield from left_out
    yield from join_questions(_versions(articles))


def lareqa_collection(folder: str | Path, name: str, languages: Sequence[str] | None = None) -> Collection:
    """The test as LAReQA defines it: every sentence of every paragraph is a candidate, equal ones included.

    `doc_id`, `group_id` and `document` are those of `read_lareqa`, so a collection can be cut to held-out documents.
    """
    articles, _ = _load_lareqa(folder, languages)
    versions = _versions(articles)
    groups = [record for record in join_questions(versions) if isinstance(record, Group)]
    answered_by: dict[str, list[str]] = {}
    for group in groups:
        for (passage,) in group.passages.values():
            answered_by.setdefault(passage.doc_id, []).append(group.group_id)
    unasked = [[(code, article["title"])] for code, data in articles.items() for article in data]
    document_of = connect_documents([*linked_articles(versions), *unasked])
    candidates = [
        Candidate(
            doc_id,
            tuple(answered_by.get(doc_id, ())),
            code,
            checked_text(f"a sentence of {article['title']!a} in {folder}, {code},", sentence.strip(OUTER_SPACE)),
            document_of[code, article["title"]],
        )
        for code, data in articles.items()
        for a, article in enumerate(data)
        for p, paragraph in enumerate(article["paragraphs"])
        for s, sentence in enumerate(paragraph["sentences"])
        if sentence.strip(OUTER_SPACE) and (doc_id := f"{code}/{a}/{p}/{s}")
    ]
    return Collection(name, queries_of(groups), candidates)


def _load_lareqa(
    folder: str | Path, languages: Sequence[str] | None
) -> tuple[dict[str, list[dict[str, Any]]], list[Rejected]]:
    tagged = [(path.stem, path) for path in sorted(check_folder(folder).glob("*.json"))]
    files, left_out = files_by_language(tagged, languages, folder)
    articles = {code: load_squad(path) for code, path in files.items()}
    for code, data in articles.items():
        if not all("sentences" in paragraph for article in data for paragraph in article["paragraphs"]):
            raise InputError(
                f"{files[code]} has paragraphs without sentences; LAReQA's files have them, plain SQuAD's do not"
            )
    return articles, left_out


def _versions(articles: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Question]]:
    return {code: questions_of(data, code, _answer_sentence) for code, data in articles.items()}


def _answer_sentence(paragraph: Mapping[str, Any], qa: Mapping[str, Any], code: str, position: str) -> Passage | str:
    """The sentence in which the first answer starts, or why there is none."""
    if not qa.get("answers"):
        return "no answer"
    start = qa["answers"][0]["answer_start"]
    for s, (begin, end) in enumerate(paragraph["sentence_breaks"]):
        if begin <= start < end:
            return Passage(f"{code}/{position}/{s}", paragraph["sentences"][s])
    return "answer_start is in no sentence"
