"""A test set with judgements: queries, one pool of passages, and a grade for some pairs of them; all of it checked.

In: queries, judgements and passages as a reader of a layout gives them. Out: a `JudgedSet`, ready to be measured.
The passages are read once to check them, and again to rank them; they are never held. What is held is a hash of each
one's id, so that a second passage of the same id is found before anything is encoded.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, key64

UNDETERMINED = "und"
"""The tag that BCP 47 has for a language that nobody has said."""


_GRADE = re.compile("-?[0-9]{1,9}")  # trec_eval's are of 32 bits


class LanguageText(NamedTuple):
    """A query or a passage, its language's code or `und`, and where it was read: `FILE:LINE`."""

    text_id: str
    language: str
    text: str
    where: str


class Judgement(NamedTuple):
    """How relevant a passage is to a query: not at all (0 and below), or by how much. `where` is `FILE:LINE`."""

    query_id: str
    doc_id: str
    grade: int
    where: str


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """`queries` are those with something relevant. `qrels` is query_id -> doc_id -> grade, of these queries alone.

    `left_out` counts, by query language, what takes no part. `passage_language` is that of the judged passages which
    the pool has. `own_ids_are_no_answer` says that a passage with its query's id is taken out of the query's ranking.
    """

    queries: Mapping[str, LanguageText]
    qrels: Mapping[str, Mapping[str, int]]
    read_passages: Callable[[], Iterator[LanguageText]]
    n_passages: Mapping[str, int]
    """How many passages each language has, those without text aside."""
    passage_language: Mapping[str, str]
    n_empty: int
    """Passages without text, which are not ranked."""
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    own_ids_are_no_answer: bool = False
    content: str = ""
    """A hash of all texts, languages and grades: a copy of the set elsewhere has the same."""

    @property
    def n_texts(self) -> int:
        """How many texts a measurement encodes."""
        return len(self.queries) + sum(self.n_passages.values())

    def ranked_passages(self) -> Iterator[LanguageText]:
        """The passages that have a text, read anew."""
        return (passage for passage in self.read_passages() if passage.text)


def check_set(
    queries: Iterable[LanguageText],
    judgements: Iterable[Judgement],
    read_passages: Callable[[], Iterator[LanguageText]],
    languages: Sequence[str] | None = None,
    *,
    own_ids_are_no_answer: bool = False,
) -> JudgedSet:
    """The set of what the readers gave. `languages` keeps the queries of these; the pool of passages stays whole.

    A query that was not judged, or has nothing relevant, is left out and counted. Raises InputError for an id that
    stands twice or has white space in it, a query without text, two grades of one pair, judgements of unknown queries,
    no query with something relevant, a language that no query has, and a pool that has nothing relevant.
    """
    asked = texts_by_id(queries, "query")
    grades = _grades(judgements, asked)
    kept = _of_languages(asked, languages)
    qrels = {q: grades[q] for q in kept if any(grade > 0 for grade in grades.get(q, {}).values())}
    if not qrels:
        raise InputError(
            f"none of {len(kept)} queries has a passage that is judged relevant (a grade above 0), so that nothing can "
            "be measured; take judgements of these queries"
        )
    digest = hashlib.blake2b(digest_size=16)
    for query_id, judged in qrels.items():
        _add(digest, *kept[query_id][:3], *(str(part) for pair in judged.items() for part in pair))
    n_passages, passage_language, n_empty = _check_passages(read_passages(), qrels, digest)
    relevant = {q: [d for d, grade in judged.items() if grade > 0] for q, judged in qrels.items()}
    if not any(d in passage_language for doc_ids in relevant.values() for d in doc_ids):
        first = next(iter(relevant.values()))[0]
        raise InputError(
            f"none of the relevant passages is among the {sum(n_passages.values())} passages, {first!r} for one; "
            "take judgements and passages that name them alike"
        )
    left_out = {}
    for code in sorted({query.language for query in kept.values()}):
        own = [query_id for query_id, query in kept.items() if query.language == code]
        missing = Counter(q for q in own for d in relevant.get(q, ()) if d not in passage_language)
        left_out[code] = {
            "queries": sum(q in qrels for q in own),
            "unjudged queries": sum(q not in grades for q in own),
            "queries without relevant": sum(q in grades and q not in qrels for q in own),
            "relevant not in corpus": missing.total(),
            "queries with relevant not in corpus": len(missing),
        }
    return JudgedSet(
        {query_id: kept[query_id] for query_id in qrels},
        qrels,
        read_passages,
        n_passages,
        passage_language,
        n_empty,
        left_out,
        own_ids_are_no_answer,
        digest.hexdigest(),
    )


def texts_by_id(texts: Iterable[LanguageText], kind: str) -> dict[str, LanguageText]:
    """By their ids. Raises InputError for an id that stands twice or has white space in it, and for no text."""
    found: dict[str, LanguageText] = {}
    for text in texts:
        _check_id(text, kind)
        if text.text_id in found:
            raise InputError(f"{text.where} repeats {kind} {text.text_id!r}; keep one of them")
        if not text.text:
            raise InputError(f"{text.where}: {kind} {text.text_id!r} has no text; give it one, or take it out")
        found[text.text_id] = text
    return found


def tagged_language(tag: object, where: str) -> str:
    """The code of a tag, where `und` is one. Raises InputError, naming the place, for what is no language's tag."""
    if tag == UNDETERMINED:
        return UNDETERMINED
    try:
        return language_code(tag if isinstance(tag, str) else repr(tag))
    except InputError as error:
        raise InputError(f"{where}: {error}, or und where nobody knows") from None


def grade_of(value: object) -> int | None:
    """A whole number of up to nine digits, or such a text, as a grade; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not _GRADE.fullmatch(str(value).strip()):
        return None
    return int(value)


def _add(digest: hashlib.blake2b, *parts: str) -> None:
    """Each part with its length before it, so that no two lists of parts are alike."""
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)


def _check_id(text: LanguageText, kind: str) -> None:
    if text.text_id.split() != [text.text_id]:
        raise InputError(f"{text.where}: {kind} {text.text_id!r} needs an id without white space; a run cannot hold it")


def _grades(judgements: Iterable[Judgement], queries: Mapping[str, LanguageText]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    unknown: dict[str, str] = {}
    for judgement in judgements:
        if judgement.query_id not in queries:
            unknown.setdefault(judgement.query_id, judgement.where)
        if judgement.doc_id.split() != [judgement.doc_id]:
            raise InputError(
                f"{judgement.where}: passage {judgement.doc_id!r} needs an id without white space; a run cannot hold it"
            )
        first = grades.setdefault(judgement.query_id, {}).setdefault(judgement.doc_id, judgement.grade)
        if first != judgement.grade:
            raise InputError(
                f"{judgement.where} gives passage {judgement.doc_id!r} of query {judgement.query_id!r} the grade "
                f"{judgement.grade}, which has {first} before; keep one of them"
            )
    if unknown:
        query_id, where = next(iter(unknown.items()))
        raise InputError(
            f"{len(unknown)} judged queries are not among the {len(queries)} queries, the first is {query_id!r} at "
            f"{where}; take queries and judgements of one version and split"
        )
    return grades


def _of_languages(queries: dict[str, LanguageText], languages: Sequence[str] | None) -> dict[str, LanguageText]:
    if languages is None:
        return queries
    wanted = {tagged_language(tag, "--languages") for tag in languages}
    found = {query.language for query in queries.values()}
    if missing := sorted(wanted - found):
        raise InputError(
            f"no query is in {', '.join(missing)}; their languages are: {' '.join(sorted(found)) or 'none'}"
        )
    return {query_id: query for query_id, query in queries.items() if query.language in wanted}


def _check_passages(
    passages: Iterable[LanguageText], qrels: Mapping[str, Mapping[str, int]], digest: hashlib.blake2b
) -> tuple[Counter[str], dict[str, str], int]:
    """Passages by language, the language of those that are judged, and how many have no text."""
    judged = {doc_id for of_query in qrels.values() for doc_id in of_query}
    seen: set[int] = set()
    n_passages: Counter[str] = Counter()
    language: dict[str, str] = {}
    n_empty = 0
    for passage in passages:
        _check_id(passage, "passage")
        key = key64(passage.text_id)
        if key in seen:
            raise InputError(f"{passage.where} repeats passage {passage.text_id!r}; keep one of them")
        seen.add(key)
        if not passage.text:
            n_empty += 1
            continue
        n_passages[passage.language] += 1
        _add(digest, *passage[:3])
        if passage.text_id in judged:
            language[passage.text_id] = passage.language
    if not n_passages:
        raise InputError(f"no passage has a text, of {n_empty}; check the file of the passages")
    return n_passages, language, n_empty
