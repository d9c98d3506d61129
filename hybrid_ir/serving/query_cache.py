"""Vectors of queries that were asked before: a query that is asked again costs no forward pass.

In: queries, and the release that encodes them. Out: what its encoder gives or gave. No torch and no Ray: it stands in
the gateway, before the encoder of its own process and before one that is a deployment.

A gateway has one cache for all that it serves. Entries are known by the encoder's space, so that a release with another
encoder finds none of them, and a release with the same one, as after `index add`, finds them all.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from hybrid_ir.serving.batcher import Observe
from hybrid_ir.serving.release import Encoded, Release
from hybrid_ir.types import OUTER_SPACE


class Text(NamedTuple):
    """A query, and the name of the prompt that is put before it."""

    text: str
    prompt: str = "query"


class _Query(NamedTuple):
    vector: np.ndarray
    tokens: int
    cut: bool


class QueryCache:
    """The queries asked last, with their vectors. Thread-safe."""

    def __init__(self, entries: int, observe: Observe) -> None:
        """It keeps `entries` queries at most, and drops the one that was asked the longest ago; 0 = it keeps none.

        An entry takes 4 bytes a dimension and half a kilobyte beside: of the text it has only a digest.
        """
        self._entries, self._observe = entries, observe
        self._lock = threading.Lock()
        self._queries: OrderedDict[bytes, _Query] = OrderedDict()

    def __len__(self) -> int:
        with self._lock:  # a query that is put in is there for a moment before another leaves
            return len(self._queries)

    def holds(self, release: Release, text: Text) -> bool:
        """Whether the query's vector is here now."""
        return _key(release, text) in self._queries

    async def encode(self, release: Release, texts: Sequence[Text], *, alone: bool = False) -> Encoded:
        """The queries encoded, those that are here without the encoder. Raises ShardDown.

        Equal texts are encoded once. A vector is that of the query's first encoding, bit for bit. With `alone` that is
        one without company, whose rounding does not depend on who else asks: the same whenever and wherever it is done.
        """
        keys = [_key(release, text, alone) for text in texts]
        known = self._get(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            start = time.perf_counter()
            try:
                # What is read behind one prompt is encoded together.
                missing = dict(sorted(missing.items(), key=lambda one: one[1].prompt))
                wanted = [(prompt, list(of)) for prompt, of in groupby(missing.values(), lambda text: text.prompt)]
                parts = [(p, [one]) for p, of in wanted for one in of] if alone else wanted
                encoded = [await release.encode([one.text for one in of], prompt) for prompt, of in parts]
            finally:
                self._observe("encode_duration_seconds", time.perf_counter() - start, {})
            # Copies: a row of an array would keep all of it.
            rows = [
                _Query(vector.copy(), tokens, cut)
                for one in encoded
                for vector, tokens, cut in zip(one.vectors, one.tokens.tolist(), one.cut.tolist(), strict=True)
            ]
            new = dict(zip(missing, rows, strict=True))
            self._put(new)
            known |= new
        for name, count in (("hits", len(texts) - len(missing)), ("misses", len(missing))):
            if count:  # a counter of Ray's refuses to be raised by nothing
                self._observe(f"query_cache_{name}", count, {})
        vectors, tokens, cut = zip(*(known[key] for key in keys), strict=True)
        return Encoded(np.stack(vectors), np.array(tokens), np.array(cut))

    def _get(self, keys: Iterable[bytes]) -> dict[bytes, _Query]:
        found: dict[bytes, _Query] = {}
        with self._lock:
            for key in keys:
                if (query := self._queries.get(key)) is not None:
                    self._queries.move_to_end(key)
                    found[key] = query
        return found

    def _put(self, queries: Mapping[bytes, _Query]) -> None:
        with self._lock:
            self._queries.update(queries)
            while len(self._queries) > self._entries:
                self._queries.popitem(last=False)


def _key(release: Release, text: Text, alone: bool = False) -> bytes:
    """By which a query is known: the encoder's space, its prompt, and the text without the space around it, as it is
    read. Apart from it, the same one encoded alone.

    A digest that nobody finds two texts of: whoever did could have one answered with the vector of the other.
    """
    space, own = release.manifest.space, text.text.strip(OUTER_SPACE)
    # By its words: another release of this space may have others under the name. The prompt of queries is of the space.
    prompt = None if text.prompt == "query" else [text.prompt, space["prompts"][text.prompt]]
    # JSON, and not one text: a query could be written so that it reads like a prompt and another query.
    read = json.dumps([space["id"], prompt, own], ensure_ascii=False)
    apart = b"alone" if alone else b""
    return hashlib.blake2b(read.encode("utf-8", "surrogatepass"), digest_size=32, person=apart).digest()
