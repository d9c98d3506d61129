"""The nouns that every stage shares: groups, passages, candidates, collections, and the error a user can mend.

In: nothing of ours, so that every file may import it. Out: plain values, and the number by which ids are compared.
A *language* is a BCP 47 primary subtag, which is the ISO 639-1 code where there is one (`en`, `zh`, `yue`).
A *document* is what a train/test split must not cut: an article, a news item, a held-out fact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class InputError(ValueError):
    """Something the user gave is wrong. The message says what was wrong, what was found, and what to do.

    The command line prints it alone and exits with 2; anything else that is raised is a defect of ours and keeps
    its traceback. It has one string argument, so that it pickles when a Ray worker raises it.
    """


class Interrupted(Exception):
    """The user stopped what was going on, and it was saved."""


def one_line(error: BaseException) -> str:
    """A library's message, for use within ours."""
    return " ".join(str(error).split())[:200]


class Passage(NamedTuple):
    """A text that can answer a query. Two passages with one `doc_id` are the same passage."""

    doc_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """One question with the passages that answer it, in one or more languages: a row of the store.

    `passages` are its positives, at least one in each language of `queries`; none is the translation of another by its
    place. `negatives` are passages that look like answers and are none, at least one in some of these languages.
    """

    group_id: str
    document: str
    queries: Mapping[str, str]
    passages: Mapping[str, Sequence[Passage]]
    negatives: Mapping[str, Sequence[Passage]] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Tag of a language where it was not the code alone: zh-TW for zh. Of two rows in one language it decides."""


class Rejected(NamedTuple):
    """A record that could not become a `Group`: where it stood, why, and (shortened) what it was."""

    where: str
    reason: str
    record: str


class Query(NamedTuple):
    """One language version of a test question. Its relevant passages are the candidates that name its `group_id`."""

    query_id: str
    group_id: str
    language: str
    text: str


class Candidate(NamedTuple):
    """One passage of the pool that is ranked. `group_ids` are the questions it answers: none for a distractor."""

    doc_id: str
    group_ids: tuple[str, ...]
    language: str
    text: str
    document: str


@dataclass(frozen=True, slots=True)
class Collection:
    """A retrieval test: queries and candidate passages in several languages, relevance by shared group."""

    name: str
    queries: Sequence[Query]
    candidates: Sequence[Candidate]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that have both queries and candidates, sorted."""
        return tuple(sorted({q.language for q in self.queries} & {c.language for c in self.candidates}))


Records = Iterator[Group | Rejected]


OUTER_SPACE = " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + (
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u2060\ufeff"
)
"""What lies around a text and is no part of it: what `str.strip` takes off, and the spaces without width, which are
ZERO WIDTH SPACE, WORD JOINER and the byte order mark. Not the joiners U+200C and U+200D, which Persian and Hindi are
written with."""


def key64(text: str) -> int:
    """A 63-bit hash of an id: how passages are compared across workers."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
