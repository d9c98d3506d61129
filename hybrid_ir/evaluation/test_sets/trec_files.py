"""What TREC's tracks publish: topics and qrels. In: a file. Out: queries and judgements, with where each stands.

Topics are a line each (id, tab, query: MIRACL, MS MARCO), or the blocks of the ad hoc tracks:

    <top>
    <num> Number: 301
    <title> International Organized Crime
    <desc> Description:
    ...
    </top>

of which the title is the query. Qrels are trec_eval's: `query_id iteration doc_id grade`, with white space between.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from hybrid_ir.data import checked_text, read_lines, read_tsv
from hybrid_ir.evaluation.test_sets.judged_set import UNDETERMINED, Judgement, LanguageText, grade_of
from hybrid_ir.types import InputError

# A field ends at the next tag; the labels are those of the earlier tracks.
_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^<]*)", re.IGNORECASE)
_TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*([^<]*)", re.IGNORECASE)


def read_topics(path: Path, language: str = UNDETERMINED) -> Iterator[LanguageText]:
    """The topics of a file in either form. Raises InputError naming the line of what is not a topic."""
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if first.lstrip().lower().startswith("<top>"):
        yield from _read_blocks(path, language)
        return
    for place, fields in read_tsv(path, 2):
        where = f"{path.parent}/{place}"
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise InputError(f"{where} is not a topic (query_id, tab, query): {fields[0][:80]!r}; copy it again")
        yield LanguageText(checked_text(where, fields[0]), language, checked_text(where, fields[1].strip()), where)


def read_qrels(path: Path, grades: Container[int] | None = None) -> Iterator[Judgement]:
    """The judgements of a file. `grades` are those that there may be; None = any whole number.

    Raises InputError naming the line of what is not a judgement.
    """
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        fields = line.split()
        if not fields:
            continue
        grade = grade_of(fields[3]) if len(fields) == 4 else None
        if grade is None or (grades is not None and grade not in grades):
            meant = "a whole number" if grades is None else "0 or 1"
            raise InputError(
                f"{where} is not a judgement (query_id, Q0, docid, {meant}): {' '.join(fields)[:80]!r}; copy it again"
            )
        checked_text(where, line)
        yield Judgement(fields[0], fields[2], grade, where)


def _read_blocks(path: Path, language: str) -> Iterator[LanguageText]:
    block: list[str] = []
    start = 0
    for number, line in read_lines(path):
        tag = line.strip().lower()
        if tag.startswith("<top>") and start:
            raise InputError(f"{path}:{number} begins a topic within that of line {start}; end it with </top>")
        if tag.startswith("<top>"):
            start = number
        if not start:
            if tag:
                raise InputError(f"{path}:{number} stands outside of <top> and </top>: {line[:80]!r}; copy it again")
            continue
        block.append(line)
        if tag.endswith("</top>"):
            yield _topic("\n".join(block), f"{path}:{start}", language)
            block, start = [], 0
    if start:
        raise InputError(f"{path}:{start} begins a topic that no </top> ends; copy it again")


def _topic(block: str, where: str, language: str) -> LanguageText:
    number, title = (" ".join(found[1].split()) if (found := tag.search(block)) else "" for tag in (_NUMBER, _TITLE))
    if not number or not title:
        lacks = " and ".join(name for name, value in (("<num>", number), ("<title>", title)) if not value)
        raise InputError(f"{where}: a topic has nothing in its {lacks}; its title is the query, so give it one")
    return LanguageText(checked_text(where, number), language, checked_text(where, title), where)
