"""A client of the search service: `SearchClient("http://127.0.0.1:8000").search("Where does the Rhine end?")`.

In: queries or texts. Out: the service's answers as plain data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from hybrid_ir.types import InputError

TRIES = 4


class SearchClient:
    """Searches and embeds over HTTP. Keeps its connection; asks again when the service is busy or a connection breaks.

    Also a context manager. Thread-safe.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, api_key: str | None = None, timeout_s: float = 30.0
    ) -> None:
        """`api_key` defaults to HYBRID_IR_API_KEY."""
        key = api_key or os.environ.get("HYBRID_IR_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/")
        # trust_env: a proxy of the environment is not for a service that was named by its address.
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=timeout_s, trust_env=False)

    def search(
        self,
        query: str | Sequence[str] | None = None,
        k: int = 10,
        *,
        like: str | None = None,
        offset: int | None = None,
        cursor: str | None = None,
        languages: Sequence[str] | None = None,
        query_language: str | None = None,
        task: str | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
        filter: Mapping[str, Any] | None = None,
        prefer: Mapping[str, Mapping[str, float]] | None = None,
        quotas: Mapping[str, int] | None = None,
        group_by: str | None = None,
        rerank: Mapping[str, int] | None = None,
        lexical: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        highlights: bool = False,
        fields: Sequence[str] | None = None,
        policy: str = "strict",
        deadline_ms: int | None = None,
    ) -> dict[str, Any]:
        """The service's `SearchResponse` as plain data: `["results"][0]["hits"]` are the hits of the first query.

        `like` is a doc_id, in place of the query: its passage's stored vector is searched for, itself left out.
        `query_language` and `task` pick the encoder's prompt before the query, where it has several.
        Pages begin with `offset=0`, and the answer's `next` is the `cursor` of the page behind it. `prefer`, such as
        {"languages": {"de": 0.05}}, `quotas` and `group_by` are a policy of languages, and `rerank`, such as
        {"candidates": 20}, asks for the second stage. `lexical`, such as {"fusion": "weighted", "weight": 0.3}, or
        {} for just that, searches by words too (docs/serve.md). With a deadline that passes, what was found until then,
        `coverage` saying how much.
        Raises InputError with the service's message for a request that it refuses, ConnectionError when it does not
        answer.
        """
        body = {
            "query": query if query is None or isinstance(query, str) else list(query),
            "like": like,
            "k": k,
            "offset": offset,
            "cursor": cursor,
            "languages": None if languages is None else list(languages),
            "query_language": query_language,
            "task": task,
            "metadata": None if metadata is None else dict(metadata),
            "filter": None if filter is None else dict(filter),
            "prefer": None if prefer is None else {name: dict(values) for name, values in prefer.items()},
            "quotas": None if quotas is None else dict(quotas),
            "group_by": group_by,
            "rerank": None if rerank is None else dict(rerank),
            "lexical": None if lexical is None else dict(lexical),
            "min_score": min_score,
            "highlights": highlights or None,
            "fields": None if fields is None else list(fields),
            "policy": policy,
            "deadline_ms": deadline_ms,
        }
        # Not /v1/search: services of before have this name alone.
        return self._ask("POST", "/search", {name: value for name, value in body.items() if value is not None})

    def passage(self, doc_id: str) -> dict[str, Any]:
        """The passage with this doc_id: the service's `Passage` as plain data. Raises as `search`; InputError too
        where there is none."""
        # Dots too: parts of a path that are nothing but dots are taken away on the way.
        return self._ask("GET", f"/passages/{quote(doc_id, safe='').replace('.', '%2E')}")

    def put(self, passages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Write passages (`doc_id`, `text`, `language`, perhaps `metadata`) over those with the same doc_ids, or beside
        the others: the service's `Written`. The key must be a write key. Raises as `search`."""
        return self._ask("PUT", "/passages", {"passages": [dict(passage) for passage in passages]})

    def delete(self, doc_id: str) -> dict[str, Any]:
        """Delete a passage: the service's `Written`. The key must be a write key. Raises as `search`; InputError too
        where there is none."""
        return self._ask("DELETE", f"/passages/{quote(doc_id, safe='').replace('.', '%2E')}")

    def embed(self, texts: Sequence[str], *, input_type: str = "passage") -> list[list[float]]:
        """Unit vectors of the texts, in their order. Raises as `search`."""
        answer = self._ask("POST", "/v1/embeddings", {"input": list(texts), "input_type": input_type})
        return [row["embedding"] for row in answer["data"]]

    def stats(self) -> dict[str, Any]:
        """What is served: the service's `Stats` as plain data."""
        return self._ask("GET", "/stats")

    def ready(self) -> bool:
        """Whether the encoder and every shard answer; False too while nothing does."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Raises ConnectionError if it takes longer."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if time.monotonic() > deadline:
                raise ConnectionError(f"the service at {self._url} is not ready after {timeout_s:g} s")
            time.sleep(0.2)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> SearchClient:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                if last:
                    raise ConnectionError(
                        f"no service answers at {self._url} ({error}); start one: hybrid-ir serve"
                    ) from error
                time.sleep(0.2 * 2**attempt)
                continue
            if response.status_code in (429, 503) and not last:
                time.sleep(float(response.headers.get("Retry-After", 1)))
                continue
            return self._read(response)
        raise AssertionError("unreachable")

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError:
            content = None
        if isinstance(content, dict) and (
            response.status_code == 200 or (response.status_code == 504 and "results" in content)
        ):
            return content
        if not isinstance(content, dict) or "error" not in content:
            raise ConnectionError(
                f"{self._url} is not a search service: it answered {response.status_code} {response.text[:100]!r}"
            )
        message = content["error"]["message"]
        if response.status_code >= 500 or response.status_code == 429:
            raise ConnectionError(f"the service at {self._url} cannot answer: {message}")
        raise InputError(f"the service at {self._url} refused the request: {message}")
