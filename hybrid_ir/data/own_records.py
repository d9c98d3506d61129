"""What makes groups and documents of rows that a user wrote: one id is one group, one text is in one document.

In: the groups of the records that were scattered, each in one language or in several. Out: their buckets again, with
the parts of a group joined, and the document that each of theirs belongs to.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np

from hybrid_ir.data.groups import shorten
from hybrid_ir.languages import form_order
from hybrid_ir.types import Group, Rejected, key64


def join_parts(groups: Iterable[Group]) -> tuple[list[Group], list[Rejected]]:
    """Groups of one id made into one, and those of a language that it has already. They depend on no order.

    So a row a language, the usual layout of parallel text, becomes a parallel group. Of two rows in one language the
    usual form is kept (zh-CN before zh-TW), and else the first by its texts.
    """
    joined, rejected = [], []
    for _, rows in groupby(sorted(groups, key=attrgetter("group_id")), key=attrgetter("group_id")):
        first, *others = sorted(rows, key=_preference)
        for other in others:
            if other.queries.keys() & first.queries.keys():
                rejected.append(Rejected(other.group_id, "duplicate group_id", shorten(dict(other.queries))))
                continue
            first = Group(
                first.group_id,
                first.document,
                {**first.queries, **other.queries},
                {**first.passages, **other.passages},
                {**first.negatives, **other.negatives},
            )
        joined.append(first)
    return joined, rejected


class DocumentLinks:
    """Which documents share a question or a passage, of one language. Some 30 bytes a text, while it is made."""

    def __init__(self) -> None:
        self._documents: dict[str, int] = {}
        self._keys, self._at = array("Q"), array("I")

    def add(self, group: Group, scope: str) -> None:
        """Documents of other scopes are never linked."""
        at = self._documents.setdefault(group.document, len(self._documents))
        texts = {f"query {code} {text}" for code, text in group.queries.items()}
        positives = [(code, passage) for code, of_code in group.passages.items() for passage in of_code]
        texts |= {f"passage {code} {passage.text}" for code, passage in positives}
        texts |= {f"doc_id {passage.doc_id}" for _, passage in positives}
        self._keys.extend(key64(f"{scope} {text}") for text in texts)
        self._at.extend([at] * len(texts))

    def joined(self) -> dict[str, str]:
        """The document that each of those belongs to which share something: the first of them by name."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        names = list(self._documents)
        keys, at = np.frombuffer(self._keys, np.uint64), np.frombuffer(self._at, np.uint32)
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        edges = at[order][same], at[order][same + 1]
        graph = coo_array((np.ones(len(same), np.int8), edges), shape=(len(names), len(names)))
        count, component = connected_components(graph, directed=False)
        first = _first_names(names, component, count)
        return {name: first[c] for name, c in zip(names, component, strict=True) if first[c] != name}


def _first_names(names: Sequence[str], component: np.ndarray, count: int) -> list[str]:
    first = [""] * count
    for name, c in zip(names, component, strict=True):
        first[c] = min(first[c] or name, name)
    return first


def _preference(group: Group) -> tuple:
    forms = sorted(form_order(group.forms.get(code, code)) for code in group.queries)
    return forms, fingerprint(group)


def fingerprint(group: Group) -> str:
    """All that a group says, to sort by."""
    return repr(
        (group.document, sorted(group.queries.items()), sorted(group.passages.items()), sorted(group.negatives.items()))
    )
