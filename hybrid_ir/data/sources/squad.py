"""SQuAD v1.1 JSON in several languages, joined by question id. LAReQA and SQuADShifts have this format too.

In: a file a language, plain or .gz. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_ir.data.find_files import listing
from hybrid_ir.data.groups import checked_group, connect_documents, passage_id, shorten
from hybrid_ir.data.read_files import read_lines
from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, Passage, Records, Rejected, one_line

FILE_BYTES = 256 << 20
"""The most that a file may have, decompressed: it is one JSON text, which is read whole."""


def read_squad(files: Mapping[str, str | Path], exclude_ids: frozenset[str] = frozenset()) -> Records:
    """One group a question; its passage is the whole paragraph.

    A question that some languages lack has the others. `exclude_ids` keeps a test set out of training (XQuAD is a part
    of SQuAD dev): questions with these ids, and every question on a paragraph that one of them is asked about, since
    its text *is* the test set's. They come out as `Rejected`.
    """
    coded = {language_code(language): Path(path) for language, path in files.items()}
    if len(coded) < len(files):
        raise InputError(f"two files for one language among {', '.join(files)}; give one file a language")
    versions = {code: questions_of(load_squad(path), code, _paragraph) for code, path in sorted(coded.items())}
    yield from join_questions(versions, exclude_ids)


def squad_question_ids(path: str | Path) -> frozenset[str]:
    """Every question id of a SQuAD or LAReQA file, or of all of them in a folder."""
    root = Path(path)
    files = [root]
    if root.is_dir():
        files = sorted([*root.glob("*.json"), *root.glob("*.json.gz")])
        if not files:
            raise InputError(f"no .json or .json.gz file in {root}; found {listing(root)}")
    return frozenset(qa["id"] for file in files for *_, qa in each_question(load_squad(file)))


def load_squad(path: Path) -> list[dict[str, Any]]:
    """The articles of a SQuAD v1.1 or LAReQA file, plain or .gz, all with a title. Raises InputError naming it."""
    text = "\n".join(_bounded(path))
    try:
        articles = json.loads(text)["data"]
        for a, article in enumerate(articles):
            article["title"] = str(article.get("title") or f"article {a}")
            for paragraph in article["paragraphs"]:
                strings = [paragraph["context"], *paragraph.get("sentences", ())]
                strings += [qa[field] for qa in paragraph["qas"] for field in ("id", "question")]
                starts = [answer["answer_start"] for qa in paragraph["qas"] for answer in qa.get("answers", ())]
                starts += [at for begin_end in paragraph.get("sentence_breaks", ()) for at in begin_end]
                breaks = [begin < end for begin, end in paragraph.get("sentence_breaks", ())]
                if not all(isinstance(s, str) for s in strings) or not all(isinstance(s, int) for s in starts):
                    raise TypeError("a text that is not a string, or a position that is not a number")
                if len(breaks) != len(paragraph.get("sentences", ())):
                    raise ValueError("a paragraph with more sentences than sentence_breaks, or fewer")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        missing = f"no {error} in it" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path} is not a SQuAD or LAReQA file: {missing}; give a file of that format") from error
    return articles


def _bounded(path: Path) -> Iterator[str]:
    """The lines of the file, which is often one line. Raises InputError where they are too many for one JSON text."""
    size = 0
    for _, line in read_lines(path, FILE_BYTES):
        size += len(line) + 1
        if size > FILE_BYTES:
            raise InputError(f"{path} has more than {FILE_BYTES:,} bytes; cut its articles into several files")
        yield line


def each_question(articles: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping, Mapping, Mapping]]:
    """(position of the paragraph, article, paragraph, question) of every question."""
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(article["paragraphs"]):
            for qa in paragraph["qas"]:
                yield f"{a}/{p}", article, paragraph, qa


class Question(NamedTuple):
    """One language version of a question. Where `flaw` says why it has no passage, the passage is empty."""

    question_id: str
    title: str
    text: str
    passage: Passage
    flaw: str = ""


def questions_of(
    articles: Iterable[Mapping[str, Any]], code: str, passage_of: Callable[[Mapping, Mapping, str, str], Passage | str]
) -> list[Question]:
    """`passage_of` (paragraph, question, language, position of the paragraph) is the passage, or why there is none."""
    questions = []
    for position, article, paragraph, qa in each_question(articles):
        found = passage_of(paragraph, qa, code, position)
        passage, flaw = (Passage("", ""), found) if isinstance(found, str) else (found, "")
        questions.append(Question(qa["id"], article["title"], qa["question"], passage, flaw))
    return questions


def join_questions(versions: Mapping[str, Sequence[Question]], exclude_ids: frozenset[str] = frozenset()) -> Records:
    """One group a question, of all its languages. A document is all articles that questions or paragraphs link."""
    document_of = connect_documents(linked_articles(versions))
    joined: dict[str, dict[str, Question]] = {}
    for code, questions in versions.items():
        for q in questions:
            if code in joined.setdefault(q.question_id, {}):
                yield Rejected(f"{code}:{q.question_id}", "question id occurs twice in one file", shorten(q.text))
            else:
                joined[q.question_id][code] = q
    excluded = {q.passage.doc_id for question_id in exclude_ids & joined.keys() for q in joined[question_id].values()}
    for question_id, every in joined.items():
        good = {code: q for code, q in every.items() if not q.flaw}
        if question_id in exclude_ids or any(q.passage.doc_id in excluded for q in good.values()):
            what = "question" if question_id in exclude_ids else "paragraph"
            shown = shorten({code: q.text for code, q in every.items()})
            yield Rejected(question_id, f"excluded: {what} of a test set", shown)
            continue
        for code, q in every.items():
            if q.flaw:
                reason = f"one language left out: {q.flaw}" if good else q.flaw
                yield Rejected(f"{code}:{question_id}", reason, shorten(q.text))
        if good:
            code, q = next(iter(good.items()))
            queries, passages = {c: v.text for c, v in good.items()}, {c: [v.passage] for c, v in good.items()}
            yield from checked_group(question_id, question_id, document_of[code, q.title], queries, passages)


def linked_articles(versions: Mapping[str, Sequence[Question]]) -> Iterable[set[tuple[str, str]]]:
    """Articles that must be one document: those with one question, and those with one paragraph."""
    links: dict[str, set[tuple[str, str]]] = {}
    for code, questions in versions.items():
        for q in questions:
            links.setdefault(f"question {q.question_id}", set()).add((code, q.title))
            links.setdefault(f"passage {q.passage.doc_id or q.question_id}", set()).add((code, q.title))
    return links.values()


def _paragraph(paragraph: Mapping[str, Any], qa: Mapping[str, Any], code: str, position: str) -> Passage | str:
    return Passage(passage_id(code, paragraph["context"]), paragraph["context"])
