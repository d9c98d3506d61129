"""The HTTP API's requests and responses. Every field has a meaning and an example, which `/docs` shows.

In: a body's JSON. Out: a checked request, or the shape of an answer. What a setting limits (k, queries, characters) is
checked in `checks`, which knows the settings.
"""

from hybrid_ir.serving.api.embed import (
    CohereEmbedRequest,
    CohereEmbedResponse,
    CohereError,
    TeiEmbedRequest,
    TeiError,
)
from hybrid_ir.serving.api.embeddings import (
    Embedding,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ModelInfo,
    ModelList,
    TokenIds,
    Usage,
)
from hybrid_ir.serving.api.errors import PROBLEM, DeadlineResponse, ErrorDetail, ErrorResponse, problem
from hybrid_ir.serving.api.lexical import InRanking, Lexical
from hybrid_ir.serving.api.rerank import (
    Rank,
    RankRequest,
    RerankDocument,
    RerankRequest,
    RerankResponse,
    RerankResult,
)
from hybrid_ir.serving.api.search import (
    EVERY_OTHER,
    MOST_FIELDS,
    MOST_KEYS,
    MOST_LANGUAGES,
    Coverage,
    Hit,
    Languages,
    MetadataValue,
    OtherPassage,
    Passage,
    Preference,
    QueryResult,
    Rerank,
    Reranked,
    SearchRequest,
    SearchResponse,
    Text,
    Timings,
)
from hybrid_ir.serving.api.status import Health, Ready, ShardStatus, Stats
from hybrid_ir.serving.api.writing import MOST_PASSAGES, PutRequest, Written

__all__ = [
    "EVERY_OTHER",
    "MOST_FIELDS",
    "MOST_KEYS",
    "MOST_LANGUAGES",
    "MOST_PASSAGES",
    "PROBLEM",
    "CohereEmbedRequest",
    "CohereEmbedResponse",
    "CohereError",
    "Coverage",
    "DeadlineResponse",
    "Embedding",
    "EmbeddingsRequest",
    "EmbeddingsResponse",
    "ErrorDetail",
    "ErrorResponse",
    "Health",
    "Hit",
    "InRanking",
    "Languages",
    "Lexical",
    "MetadataValue",
    "ModelInfo",
    "ModelList",
    "OtherPassage",
    "Passage",
    "Preference",
    "PutRequest",
    "QueryResult",
    "Rank",
    "RankRequest",
    "Ready",
    "Rerank",
    "RerankDocument",
    "RerankRequest",
    "RerankResponse",
    "RerankResult",
    "Reranked",
    "SearchRequest",
    "SearchResponse",
    "ShardStatus",
    "Stats",
    "TeiEmbedRequest",
    "TeiError",
    "Text",
    "Timings",
    "TokenIds",
    "Usage",
    "Written",
    "problem",
]
