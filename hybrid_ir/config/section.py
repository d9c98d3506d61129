"""What a section of a config is. In: classes whose fields say what they are for. Out: those fields, and their values.

A config describes; it never holds a model, a handle or an open file. The string below a field is its documentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Resumption = Literal["keep", "free"]
Precision = Literal["auto", "bf16", "fp32"]
"""What products of an encoder are computed in."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def setting(default: Any, *, on_resume: Resumption, **constraints: Any) -> Any:
    """A field of what a run is made of, with pydantic's `constraints`.

    `on_resume` is "free" where a resumed run may have another value: it says where and how fast the run goes on. It is
    "keep" where it says what the run computes. What a field that is a section chose holds for all that is in it.
    """
    return Field(default, json_schema_extra={"on_resume": on_resume}, **constraints)


def fields_of(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The dotted path of every field of a section and of the sections in it (but not of those in lists)."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields_of(field.annotation, f"{prefix}{name}.")


def on_resume(section: type[Section], path: str) -> Resumption | None:
    """What the field at a dotted path chose, or one that it lies in; None if none of them did, or there is none."""
    chosen: dict[str, Any] = {at: field.json_schema_extra for at, field in fields_of(section)}
    choices = (chosen.get(at) for at in accumulate(path.split("."), "{}.{}".format))
    return next((choice["on_resume"] for choice in choices if choice), None)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and value of everything in a nested mapping. A list is one value, and so is an empty mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def leaf_texts(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted path -> value as a page or a tracker shows it: a string as it is, all else as JSON."""
    return {
        path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for path, value in leaves(tree)
    }
