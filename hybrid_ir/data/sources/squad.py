"""SQuAD JSON: LAReQA's tests (XQuAD-R, MLQA-R) and translated SQuAD, as `Group | Rejected` or as a `Collection`.

`load_squad` checks the shape of a file, so that the rest can rely on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_ir.data.groups import checked_group, connect_documents, passage_id, shorten
from hybrid_ir.data.text_files import check_folder, files_by_language, listing, read_lines
from hybrid_ir.languages import language_code
from hybrid_ir.types import Candidate, Collection, Group, InputError, Passage, Query, Records, Rejected, one_line


def read_lareqa(folder: str | Path, languages: Sequence[str] | None = None) -> Records:
    """XQuAD-R or MLQA-R, `{language}.json`: a question, and in each language the *sentence* that holds the answer.

    Questions are joined over languages by their id; a document is an article with all that share a question with it.
    """
    articles = _load_lareqa(folder, languages)
    yield from _join_questions({code: _questions(data, code, _answer_sentence) for code, data in articles.items()})


def lareqa_collection(folder: str | Path, name: str, languages: Sequence[str] | None = None) -> Collection:
    """The test as LAReQA defines it: every sentence of every paragraph is a candidate, equal ones included.

    `doc_id`, `group_id` and `document` are those of `read_lareqa`, so a collection can be cut to held-out documents.
    """
    articles = _load_lareqa(folder, languages)
    versions = {code: _questions(data, code, _answer_sentence) for code, data in articles.items()}
    groups = [record for record in _join_questions(versions) if isinstance(record, Group)]
    answered_by: dict[str, list[str]] = {}
    for group in groups:
        for passage in group.passages.values():
            answered_by.setdefault(passage.doc_id, []).append(group.group_id)
    unasked = [[(code, article["title"])] for code, data in articles.items() for article in data]
    document_of = connect_documents([*_links(versions), *unasked])
    candidates = [
        Candidate(
            doc_id, tuple(answered_by.get(doc_id, ())), code, sentence.strip(), document_of[code, article["title"]]
        )
        for code, data in articles.items()
        for a, article in enumerate(data)
        for p, paragraph in enumerate(article["paragraphs"])
        for s, sentence in enumerate(paragraph["sentences"])
        if sentence.strip() and (doc_id := f"{code}/{a}/{p}/{s}")
    ]
    queries = [
        Query(f"{g.group_id}/{code}", g.group_id, code, text) for g in groups for code, text in g.queries.items()
    ]
    return Collection(name, queries, candidates)


def read_squad(files: Mapping[str, str | Path], exclude_ids: frozenset[str] = frozenset()) -> Records:
    """SQuAD v1.1 JSON (plain or .gz), a file a language, joined by question id. A passage is the whole paragraph.

    A question that some languages lack has the others. `exclude_ids` keeps a test set out of training (XQuAD is a part
    of SQuAD dev): questions with these ids, and every question on a paragraph that one of them is asked about, since
    its text *is* the test set's. They come out as `Rejected`.
    """
    coded = {language_code(language): Path(path) for language, path in files.items()}
    if len(coded) < len(files):
        raise InputError(f"two files for one language among {', '.join(files)}; give one file a language")
    versions = {code: _questions(load_squad(path), code, _paragraph) for code, path in sorted(coded.items())}
    yield from _join_questions(versions, exclude_ids)


def squad_question_ids(path: str | Path) -> frozenset[str]:
    """Every question id of a SQuAD or LAReQA file, or of all of them in a folder."""
    root = Path(path)
    files = [root]
    if root.is_dir():
        files = sorted([*root.glob("*.json"), *root.glob("*.json.gz")])
        if not files:
            raise InputError(f"no .json or .json.gz file in {root}; found {listing(root)}")
    return frozenset(
        qa["id"] for file in files for article in load_squad(file) for p in article["paragraphs"] for qa in p["qas"]
    )


def load_squad(path: Path) -> list[dict[str, Any]]:
    """The articles of a SQuAD v1.1 or LAReQA file, plain or .gz, all with a title. Raises InputError naming it."""
    text = "\n".join(line for _, line in read_lines(path))
    try:
        articles = json.loads(text)["data"]
        for a, article in enumerate(articles):
            article["title"] = str(article.get("title") or f"article {a}")
            for paragraph in article["paragraphs"]:
                strings = [paragraph["context"], *paragraph.get("sentences", ())]
                strings += [qa[field] for qa in paragraph["qas"] for field in ("id", "question")]
                starts = [answer["answer_start"] for qa in paragraph["qas"] for answer in qa.get("answers", ())]
                breaks = [begin < end for begin, end in paragraph.get("sentence_breaks", ())]
                if not all(isinstance(s, str) for s in strings) or not all(isinstance(s, int) for s in starts):
                    raise TypeError("a text that is not a string, or a position that is not a number")
                if len(breaks) != len(paragraph.get("sentences", ())):
                    raise ValueError("a paragraph with more sentences than sentence_breaks, or fewer")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        missing = f"no {error} in it" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path} is not a SQuAD or LAReQA file: {missing}; give a file of that format") from error
    return articles


def _load_lareqa(folder: str | Path, languages: Sequence[str] | None) -> dict[str, list[dict[str, Any]]]:
    tagged = [(path.stem, path) for path in sorted(check_folder(folder).glob("*.json"))]
    files = files_by_language(tagged, languages, folder)
    articles = {code: load_squad(path) for code, path in files.items()}
    for code, data in articles.items():
        if not all("sentences" in paragraph for article in data for paragraph in article["paragraphs"]):
            raise InputError(
                f"{files[code]} has paragraphs without sentences; LAReQA's files have them, plain SQuAD's do not"
            )
    return articles


class _Question(NamedTuple):
    """One language version of a question. Where `flaw` says why it has no passage, the passage is empty."""

    question_id: str
    title: str
    text: str
    passage: Passage
    flaw: str = ""


def _questions(
    articles: Sequence[Mapping[str, Any]], code: str, passage_of: Callable[[Mapping, Mapping, str, str], Passage | str]
) -> list[_Question]:
    questions = []
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(article["paragraphs"]):
            for qa in paragraph["qas"]:
                found = passage_of(paragraph, qa, code, f"{a}/{p}")
                passage, flaw = (Passage("", ""), found) if isinstance(found, str) else (found, "")
                questions.append(_Question(qa["id"], article["title"], qa["question"], passage, flaw))
    return questions


def _paragraph(paragraph: Mapping[str, Any], qa: Mapping[str, Any], code: str, position: str) -> Passage | str:
    return Passage(passage_id(code, paragraph["context"]), paragraph["context"])


def _answer_sentence(paragraph: Mapping[str, Any], qa: Mapping[str, Any], code: str, position: str) -> Passage | str:
    """The sentence in which the first answer starts, or why there is none."""
    if not qa.get("answers"):
        return "no answer"
    start = qa["answers"][0]["answer_start"]
    for s, (begin, end) in enumerate(paragraph["sentence_breaks"]):
        if begin <= start < end:
            return Passage(f"{code}/{position}/{s}", paragraph["sentences"][s])
    return "answer_start is in no sentence"


def _links(versions: Mapping[str, Sequence[_Question]]) -> Iterable[set[tuple[str, str]]]:
    """Articles that must be one document: those with one question, and those with one paragraph."""
    links: dict[str, set[tuple[str, str]]] = {}
    for code, questions in versions.items():
        for q in questions:
            links.setdefault(f"question {q.question_id}", set()).add((code, q.title))
            links.setdefault(f"passage {q.passage.doc_id or q.question_id}", set()).add((code, q.title))
    return links.values()


def _join_questions(versions: Mapping[str, Sequence[_Question]], exclude_ids: frozenset[str] = frozenset()) -> Records:
    document_of = connect_documents(_links(versions))
    joined: dict[str, dict[str, _Question]] = {}
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
            queries, passages = {c: v.text for c, v in good.items()}, {c: v.passage for c, v in good.items()}
            yield from checked_group(question_id, question_id, document_of[code, q.title], queries, passages)
