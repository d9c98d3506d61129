"""From raw texts to a `Group` that can be trusted; what names a passage, and what makes a document.

In: ids and texts by language, as a reader found them. Out: `Group | Rejected`.
A bad record is yielded as `Rejected` and reading goes on. Reasons hold no values, so that they can be counted.
Texts are stripped, and otherwise as they came. A split never cuts a document, so what shares a text should share one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence

from hybrid_ir.types import OUTER_SPACE, Group, Passage, Query, Records, Rejected


def checked_group(
    where: str,
    group_id: str,
    document: str,
    queries: Mapping[str, str],
    passages: Mapping[str, Sequence[Passage]],
    negatives: Mapping[str, Sequence[Passage]] | None = None,
    forms: Mapping[str, str] | None = None,
) -> Records:
    """The group of the languages that have a good query and a good passage, and a `Rejected` for each of the others,
    for each further passage and for each negative that cannot be used."""
    good: dict[str, tuple[Passage, ...]] = {}
    flaws: list[tuple[str, str]] = []
    left_out: list[tuple[str, str, Passage | None]] = []
    for code in sorted({*queries, *passages}):
        kept, bad = _usable("passage", passages.get(code, ()))
        flaw = _flaw("query", queries.get(code)) or ("" if kept else bad[0][0] if bad else _no_passage(code, passages))
        if flaw:
            flaws.append((code, flaw))
        else:
            good[code] = kept
            left_out += [(code, f"passage left out: {flaw}", passage) for flaw, passage in bad]
    unnamed = _flaw("group_id", group_id) or _flaw("document", document)
    if unnamed or not (queries or passages):
        yield Rejected(where, unnamed or "no query and no passage", shorten(queries or group_id))
        return
    for code, flaw in flaws:
        texts = [passage.text for passage in passages.get(code, ())]
        shown = {"group_id": group_id, "language": code, "query": queries.get(code), "passages": texts}
        yield Rejected(where, f"one language left out: {flaw}" if good else flaw, shorten(shown))
    if not good:
        return
    wrong: dict[str, tuple[Passage, ...]] = {}
    answers = {passage.doc_id for kept in good.values() for passage in kept}
    for code, found in sorted((negatives or {}).items()):
        if not found or code not in good:
            flaw = "its language has no good pair" if found else "its list is empty; leave out what has no negative"
            left_out += [(code, f"negative left out: {flaw}", passage) for passage in found or (None,)]
            continue
        kept, bad = _usable("negative", found, answers, {passage.text for passage in good[code]})
        left_out += [(code, f"negative left out: {flaw}", passage) for flaw, passage in bad]
        if kept:
            wrong[code] = kept
    for code, reason, passage in left_out:
        yield Rejected(where, reason, shorten({"group_id": group_id, code: passage.text if passage else []}))
    yield Group(
        group_id,
        document,
        {code: queries[code].strip(OUTER_SPACE) for code in good},
        good,
        wrong,
        {code: tag for code, tag in (forms or {}).items() if code in good},
    )


def connect_documents(links: Iterable[Iterable[tuple[str, str]]]) -> dict[tuple[str, str], str]:
    """Document of every (language, title): titles that a link names together, over any chain of links, share it.

    It is named by its English title, or else by the first title of its first language.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for link in links:
        keys = list(link)
        for key in keys:
            parent.setdefault(key, key)
        # The root is always the least key, which is the one that names the document.
        roots = sorted({root(key) for key in keys}, key=lambda key: (key[0] != "en", key))
        parent.update((other, roots[0]) for other in roots)
    return {key: root(key)[1] for key in parent}


def passage_id(code: str, text: str) -> str:
    """A `doc_id` by content, for sources that have none: equal texts of a language are one passage."""
    content = text.strip(OUTER_SPACE).encode("utf-8", "surrogatepass")
    return f"{code}/{hashlib.blake2b(content, digest_size=10).hexdigest()}"


def content_passage(code: str, text: str) -> Passage:
    """A passage of a source that names none."""
    return Passage(passage_id(code, text), text)


def id_text(value: object) -> str | None:
    """An id as a text: an integer in its decimal digits, also where a column with gaps made it 7.0; None if neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def queries_of(groups: Iterable[Group]) -> list[Query]:
    """A query of each language version of each group."""
    return [Query(f"{g.group_id}/{code}", g.group_id, code, text) for g in groups for code, text in g.queries.items()]


def shorten(value: object) -> str:
    """A record as `Rejected` shows it: at most 200 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def _flaw(what: str, text: str | None) -> str:
    """Why a text cannot be used, or an empty string."""
    if text is None:
        return f"no {what}"
    if not text.strip(OUTER_SPACE):
        return f"empty {what}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{what} is not valid UTF-8 (convert the file from its encoding, such as Latin-1)"
    return ""


def _usable(
    what: str, passages: Iterable[Passage], answers: Container[str] = (), answer_texts: Container[str] = ()
) -> tuple[tuple[Passage, ...], list[tuple[str, Passage]]]:
    """Those that can be used, and of each other one why not: it also must not have one of these ids or texts."""
    kept: dict[str, Passage] = {}
    left_out = []
    for passage in passages:
        flaw = _flaw(what, passage.text) or _flaw("doc_id", passage.doc_id)
        text = passage.text.strip(OUTER_SPACE)
        if not flaw and (passage.doc_id in answers or text in answer_texts):
            flaw = "it is a passage of its group too; take it out of one of the two"
        if not flaw and passage.doc_id in kept:
            flaw = "its doc_id stands twice in one list; give each passage once"
        if flaw:
            left_out.append((flaw, passage))
        else:
            kept[passage.doc_id] = passage._replace(text=text)
    return tuple(kept.values()), left_out


def _no_passage(code: str, passages: Mapping[str, Sequence[Passage]]) -> str:
    return "no passage: its list is empty" if code in passages else "no passage"
