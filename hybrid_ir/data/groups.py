"""From raw texts to a `Group` that can be trusted; what names a passage, and what makes a document.

In: ids and texts by language, as a reader found them. Out: `Group | Rejected`.
A bad record is yielded as `Rejected` and reading goes on. Reasons hold no values, so that they can be counted.
Texts are stripped, and otherwise as they came. A split never cuts a document, so what shares a text should share one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from hybrid_ir.types import OUTER_SPACE, Group, Passage, Query, Records, Rejected


def checked_group(
    where: str,
    group_id: str,
    document: str,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    negatives: Mapping[str, Passage] | None = None,
    forms: Mapping[str, str] | None = None,
) -> Records:
    """The group of the languages whose query and passage are both good, and a `Rejected` for each of the others."""
    good: list[str] = []
    flaws: list[tuple[str, str]] = []
    for code in sorted({*queries, *passages}):
        flaw = _pair_flaw(queries.get(code), passages.get(code))
        if flaw:
            flaws.append((code, flaw))
        else:
            good.append(code)
    unnamed = _flaw("group_id", group_id) or _flaw("document", document)
    if unnamed or not (queries or passages):
        yield Rejected(where, unnamed or "no query and no passage", shorten(queries or group_id))
        return
    for code, flaw in flaws:
        passage = passages.get(code)
        shown = {"language": code, "query": queries.get(code), "passage": passage and passage.text}
        yield Rejected(where, f"one language left out: {flaw}" if good else flaw, shorten(shown))
    if not good:
        return
    kept = {}
    for code, negative in sorted((negatives or {}).items()):
        flaw = _flaw("negative", negative.text) if code in good else "its language has no good pair"
        if flaw or _flaw("doc_id", negative.doc_id):
            yield Rejected(where, f"negative left out: {flaw or 'bad doc_id'}", shorten({code: negative.text}))
        else:
            kept[code] = negative._replace(text=negative.text.strip(OUTER_SPACE))
    yield Group(
        group_id,
        document,
        {code: queries[code].strip(OUTER_SPACE) for code in good},
        {code: passages[code]._replace(text=passages[code].text.strip(OUTER_SPACE)) for code in good},
        kept,
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


def _pair_flaw(query: str | None, passage: Passage | None) -> str:
    if passage is None or query is None:
        return _flaw("query", query) or "no passage"
    return _flaw("query", query) or _flaw("passage", passage.text) or _flaw("doc_id", passage.doc_id)
