"""Checks what a user wrote. In: a section's class and a mapping. Out: the section, or what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from hybrid_ir.config.section import Section
from hybrid_ir.types import InputError

S = TypeVar("S", bound=Section)


def validate(
    section: type[S],
    tree: Any,
    origin: str,
    whole: str,
    tags: Collection[Any],
    explain: Callable[[Any, str], str | None],
) -> S:
    """`tree` as a section. Raises InputError with a line a mistake: dotted path, what was found, `origin`.

    `explain` has its own words for an error of pydantic's at a path, or None. `whole` stands for the empty path. `tags`
    are in pydantic's locations, but in no file.
    """
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        lines = []
        for each in error.errors():
            # The last part of an unknown key is the user's own word, even if it is that of a tag.
            last = len(each["loc"]) - 1 if each["type"] == "extra_forbidden" else None
            parts = (part for i, part in enumerate(each["loc"]) if i == last or part not in (*tags, "[key]"))
            path = ".".join(map(str, parts))
            lines.append(f"{explain(each, path) or _explain(each, path or whole)} ({origin})")
        raise InputError("\n".join(lines)) from None


def _explain(error: Any, path: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    # Where a whole section is at fault its message names the field, and the input is all of it.
    shown = "" if error["type"] in ("missing", "value_error") else f", got {error['input']!r:.80}"
    return f"{path}: {message[0].lower() + message[1:]}{shown}"


def did_you_mean(name: str, known: Sequence[str], elsewhere: Sequence[str] = (), listed: str = "known keys") -> str:
    """The known dotted path whose last part is most like `name`, or one elsewhere, or else all that are known."""
    for paths in (known, elsewhere):
        # Of two of one name it is the one less deep, or the first: `alpha` is the batch's, and not LoRA's.
        by_name: dict[str, str] = {}
        for path in sorted(paths, key=lambda path: path.count(".")):
            by_name.setdefault(path.rpartition(".")[2], path)
        for near in difflib.get_close_matches(name, by_name, n=1, cutoff=0.6):
            return f"did you mean {by_name[near]!r}?"
    return f"{listed}: {', '.join(known)}"
