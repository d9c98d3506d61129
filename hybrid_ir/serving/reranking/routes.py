"""The routes that rerank, in the forms that clients have: Cohere's and Jina's, and text-embeddings-inference's.

In: requests. Out: places and scores, best first, or a RequestError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import Response

from hybrid_ir.serving import api
from hybrid_ir.serving.http_document import documented
from hybrid_ir.serving.reranking.stage import Reranking, by_score, relevance


def add_rerank_routes(
    app: FastAPI,
    reranking: Callable[[], Reranking],
    read: Callable[..., Awaitable[Any]],
    answer: Callable[[Any], Response],
    while_connected: Callable[[Request, Coroutine[Any, Any, Any]], Awaitable[Any]],
) -> dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]:
    """The handlers, by method and path. `read` is given the request and the body's model; `while_connected` ends what
    nobody waits for any more."""
    errors = (400, 401, 404, 413, 422, 429, 503, 504)

    async def rerank(request: Request) -> Response:
        """Documents in the order of a cross-encoder's scores, as Cohere's and Jina's clients ask for it."""
        wanted = await read(request, api.RerankRequest)
        texts = [each if isinstance(each, str) else each.text for each in wanted.documents]
        ranking = reranking()
        scored = await while_connected(request, ranking.rank(wanted.query, texts, wanted.model, "documents"))
        scores, tokens = scored.scores.tolist(), int(scored.tokens.sum())
        results = [
            {
                "index": place,
                "relevance_score": relevance(scores[place]),
                "cut": bool(scored.cut[place]),
                **({"document": {"text": texts[place]}} if wanted.return_documents else {}),
            }
            for place in by_score(scores)[: wanted.top_n]
        ]
        return answer(
            {
                "id": uuid4().hex,
                "model": ranking.name,
                "results": results,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    form = documented(api.RerankResponse, api.RerankRequest, *errors)
    for path in ("/v1/rerank", "/v2/rerank"):  # Cohere's client of today asks for the second
        app.post(path, **form)(rerank)

    form = documented(api.Rank, api.RankRequest, *errors)
    form["responses"][200] = {"model": list[api.Rank], "description": "The texts in order, best first."}

    @app.post("/rerank", **form)
    async def rank(request: Request) -> Response:
        """Texts in the order of a cross-encoder's scores, as clients of text-embeddings-inference ask for it."""
        wanted = await read(request, api.RankRequest)
        scored = await while_connected(request, reranking().rank(wanted.query, wanted.texts, None, "texts"))
        scores = scored.scores.tolist()
        return answer(
            [
                {
                    "index": place,
                    "score": scores[place] if wanted.raw_scores else relevance(scores[place]),
                    **({"text": wanted.texts[place]} if wanted.return_text else {}),
                }
                for place in by_score(scores)
            ]
        )

    return {("POST", "/v1/rerank"): rerank, ("POST", "/v2/rerank"): rerank, ("POST", "/rerank"): rank}
