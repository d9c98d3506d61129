"""What a study adds to the page of its sweep. In: text and drawings. Out: sentences, tables and figures to lay out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table of a study: a note, column names, rows of text."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Findings:
    """What a study adds to its sweep's page."""

    question: str = ""
    sentences: Sequence[str] = ()
    """Plain sentences of what the data says."""
    tables: Sequence[Table] = ()
    figures: Sequence[tuple[str, str, Any]] = ()
    """(title, note, matplotlib figure)"""
