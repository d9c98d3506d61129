"""What a filter says. In: JSON, as {"must": [{"key": "year", "range": {"gte": 2020}}]}. Out: a hashable `Filter`.

The form is Qdrant's, so that filters which people have can be taken along: all of `must` hold, none of `must_not`, and
at least one of `should` where there are any. Each is a condition on one key, or a filter again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from hybrid_ir.index.passage_table import canonical
from hybrid_ir.types import InputError

MOST_CONDITIONS = 64
MOST_VALUES = 1000
MOST_LEVELS = 8
_PARTS = ("must", "must_not", "should")
_BOUNDS = ("gt", "gte", "lt", "lte")
_FORMS = (
    'a condition is {"key": ..., "match": {"value": ...}} (or "any": [...], or "except": [...]), '
    '{"key": ..., "range": {"gte": ..., "lt": ...}} or {"is_empty": {"key": ...}}'
)


class OneOf(NamedTuple):
    """The value of the key is one of these, or with `negated` another one. A passage without the key does not pass."""

    key: str
    values: tuple[str, ...]
    """As `canonical` writes them, sorted."""
    negated: bool = False


class Between(NamedTuple):
    """A number, or a date as seconds since 1970, within bounds: (comparison, bound) pairs that all hold."""

    key: str
    bounds: tuple[tuple[str, float], ...]
    dates: bool


class Absent(NamedTuple):
    """The passage does not have the key."""

    key: str


class Filter(NamedTuple):
    """All of `must`, none of `must_not`, and one of `should` where there are any."""

    must: tuple[Item, ...] = ()
    must_not: tuple[Item, ...] = ()
    should: tuple[Item, ...] = ()


Item = OneOf | Between | Absent | Filter


def read_filter(content: Any) -> Filter:
    """The filter that JSON says. Raises InputError that names the place in it that is wrong, and what may stand there.

    `filter` is what the place is called by: "filter.must[0].range".
    """
    count = 0

    def read(content: Any, place: str, level: int) -> Filter:
        nonlocal count
        if level > MOST_LEVELS:
            raise InputError(f"{place}: filters may lie in each other {MOST_LEVELS} deep")
        if not isinstance(content, Mapping) or not content:
            raise InputError(f"{place}: it must be an object with {', '.join(_PARTS)}; got {_shown(content)}")
        parts = {}
        for name, items in content.items():
            if name not in _PARTS:
                raise InputError(f"{place}: there is no {name[:80]!r}; there are {', '.join(_PARTS)}")
            items = items if isinstance(items, list) else [items]
            count += len(items)
            if count > MOST_CONDITIONS:
                raise InputError(f"filter: at most {MOST_CONDITIONS} conditions in all")
            if not items:
                raise InputError(f"{place}.{name}: it is empty; leave it out, or put a condition into it")
            places = (f"{place}.{name}[{i}]" for i in range(len(items)))
            parts[name] = tuple(read_item(item, at, level) for item, at in zip(items, places, strict=True))
        return Filter(**parts)

    def read_item(item: Any, place: str, level: int) -> Item:
        if not isinstance(item, Mapping) or not item:
            raise InputError(f"{place}: {_FORMS}; got {_shown(item)}")
        return read(item, place, level + 1) if set(item) & set(_PARTS) else _condition(item, place)

    return read(content, "filter", 1)


def keys_of(item: Item) -> Iterator[str]:
    """The metadata keys that a filter asks for."""
    if isinstance(item, Filter):
        for part in item:
            for each in part:
                yield from keys_of(each)
    else:
        yield item.key


def _condition(item: Mapping[str, Any], place: str) -> Item:
    if set(item) == {"is_empty"}:
        inner = item["is_empty"]
        if not isinstance(inner, Mapping) or set(inner) != {"key"}:
            raise InputError(f'{place}.is_empty: it must be {{"key": ...}}, got {_shown(inner)}')
        return Absent(_key(inner["key"], f"{place}.is_empty"))
    if set(item) not in ({"key", "match"}, {"key", "range"}):
        raise InputError(f"{place}: {_FORMS}; got the keys {', '.join(sorted(map(str, item)))[:200]}")
    key = _key(item["key"], place)
    return _match(key, item["match"], place) if "match" in item else _range(key, item["range"], place)


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str) or not key:
        raise InputError(f"{place}.key: it must be the name of a metadata key, got {_shown(key)}")
    return key


def _match(key: str, match: Any, place: str) -> OneOf:
    at = f"{place}.match"
    if not isinstance(match, Mapping) or len(match) != 1 or not set(match) <= {"value", "any", "except"}:
        raise InputError(f'{at}: it must have one of "value", "any" and "except", got {_shown(match)}')
    ((how, given),) = match.items()
    values = [given] if how == "value" else given
    if not isinstance(values, list) or not 0 < len(values) <= MOST_VALUES:
        raise InputError(f"{at}.{how}: it must be a list of 1 to {MOST_VALUES} values, got {_shown(given)}")
    for value in values:
        if not isinstance(value, str | int | float):
            raise InputError(f"{at}.{how}: a value is a text, a number, true or false, got {_shown(value)}")
    return OneOf(key, tuple(sorted({canonical(value) for value in values})), how == "except")


def _range(key: str, given: Any, place: str) -> Between:
    at = f"{place}.range"
    if not isinstance(given, Mapping) or not given or not set(given) <= set(_BOUNDS):
        raise InputError(f"{at}: it must have one or more of {', '.join(_BOUNDS)}, got {_shown(given)}")
    dates = {isinstance(bound, str) for bound in given.values()}
    if len(dates) > 1:
        raise InputError(f"{at}: its bounds must all be numbers or all be dates, got {_shown(given)}")
    bounds = []
    for name, bound in sorted(given.items()):
        value = seconds_of(bound) if isinstance(bound, str) else _finite(bound)
        if value is None:
            raise InputError(
                f"{at}.{name}: a bound is a number, or a date as 2024-05-31 or 2024-05-31T12:00:00Z, "
                f"got {_shown(bound)}"
            )
        bounds.append((name, value))
    return Between(key, tuple(bounds), dates.pop())


def _finite(number: Any) -> float | None:
    """A number as a float; None for what is none, and for what no float can hold."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    try:
        value = float(number)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


@lru_cache(maxsize=2**16)
def seconds_of(text: str) -> float | None:
    """A date or time of ISO 8601 as seconds since 1970, or None for another text. Without a zone it is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
