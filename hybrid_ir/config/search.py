"""How passages are indexed, and how the service answers. No input. Out: two sections of an experiment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybrid_ir.config.section import Precision, Section


class Pieces(Section):
    tokens: int | None = Field(default=None, ge=8)
    """Cut longer passages into pieces of at most so many tokens, prefix and special tokens included, each with a vector
    of its own; a passage is found by its best piece. Null = longer passages lose what the encoder does not read."""
    overlap: int | None = Field(default=None, ge=0)
    """Tokens that a piece has in common with the one before; 0 = none, null = an eighth of its own."""

    @model_validator(mode="after")
    def _goes_on(self) -> Pieces:
        if self.tokens is not None and self.overlap is not None and 2 * self.overlap >= self.tokens:
            raise ValueError(f"overlap={self.overlap} must be less than half of tokens={self.tokens}")
        if self.tokens is None and self.overlap is not None:
            raise ValueError(f"overlap={self.overlap} needs tokens, without which nothing is cut into pieces")
        return self

    @property
    def how(self) -> tuple[int, int] | None:
        """(tokens, overlap); None = nothing is cut into pieces."""
        if self.tokens is None:
            return None
        return self.tokens, self.tokens // 8 if self.overlap is None else self.overlap


class Index(Section):
    codec: str | None = None
    """faiss.index_factory string: Flat, or IVF with SQ8, PQ and so on. Null = Flat below 100,000 a shard, else SQ8."""
    candidates: int = Field(default=4, ge=1, le=256)
    """Passages that a lossy codec finds for each hit (of ten at least), to be scored exactly; a coarser needs more."""
    shards: int | None = Field(default=None, ge=1, le=1024)
    """Parts that are built and searched apart; null = one a million passages."""
    sharding: Literal["language", "random"] = "language"
    """language: a shard holds whole languages as far as sizes allow; random: every shard holds all of them."""
    pieces: Pieces = Pieces()
    """How passages that are longer than the encoder reads are cut; `evaluate` takes it too."""
    lexical: bool = False
    """Write which passages have which words too, so that searches may ask for BM25, alone or fused with the encoder's
    ranking. false = searches are by the encoder alone."""
    recall_target: float = Field(default=0.98, ge=0, le=1)
    """Recall@10 of exact search that each language must reach; what is built below it is refused. 0 = no gate."""
    recall_sample: int = Field(default=50, ge=1)
    """Passages of each language that the gate searches for."""
    precision: Precision = "auto"
    """Of encoding; as train.precision."""
    token_budget: int | None = Field(default=None, ge=64)
    """Padded tokens of one encoding batch; null = as evaluate.token_budget."""
    actors: int = Field(default=1, ge=1)
    """Ray Data actors that encode, and tasks that write shards, at a time."""
    cpus_per_actor: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for each of them."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs that Ray reserves for each that encodes; 0 = encode on the CPU."""


class Scaling(Section):
    gateways: int | None = Field(default=None, ge=1)
    """Most gateways: from serve.gateways to so many, by the requests in flight. Null = serve.gateways, always."""
    replicas: int | None = Field(default=None, ge=1)
    """Most replicas of the encoder, of every shard and of the reranker (placement: distributed): from serve.replicas to
    so many, each by its own calls. Null = serve.replicas, always."""
    requests_per_gateway: float = Field(default=16.0, gt=0)
    """Requests in flight that a gateway is to have; with more on average, gateways are added."""
    calls_per_replica: float = Field(default=1.0, gt=0)
    """Calls under way that a replica is to have, the same way. A gateway has about one to each, of a whole batch."""
    up_after_s: float = Field(default=30.0, ge=0)
    """Seconds that the load must ask for more before there are more."""
    down_after_s: float = Field(default=600.0, ge=0)
    """Seconds that the load must ask for fewer before there are fewer."""


class Serve(Section):
    host: str = "127.0.0.1"
    """Interface to listen on; 0.0.0.0 = all. A public one needs API keys, or allow_public."""
    port: int = Field(default=8000, ge=1, le=65535)
    """TCP port to listen on."""
    placement: Literal["auto", "local", "distributed"] = "auto"
    """local: encoder and shards in the gateway's process; distributed: a deployment each. auto: local where the shards
    fit into a quarter of the memory of the node or container."""
    gateways: int = Field(default=1, ge=1)
    """Replicas of the gateway."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of the encoder and of every shard (placement: distributed)."""
    scaling: Scaling = Scaling()
    """How many of both there are while the load is high."""
    cpus_per_replica: float = Field(default=0.2, gt=0)
    """CPUs that Ray reserves for a gateway, encoder or shard replica."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch and FAISS in a replica; null = the CPUs of the machine, or of its container, divided by the
    gateways (local) or by twice the replicas (distributed): by the most of them, where `scaling` has more."""
    api_keys: tuple[str, ...] = ()
    """Requests must carry one of these as `Authorization: Bearer KEY`; empty = no key asked for. Also read from
    HYBRID_IR_API_KEYS (comma-separated), which keeps them out of files and process lists."""
    write_keys: tuple[str, ...] = ()
    """Requests that write or delete passages must carry one of these; they may read too. Empty = nobody may write. Also
    read from HYBRID_IR_WRITE_KEYS, as the former."""
    allow_public: bool = False
    """Serve a public interface without API keys; false = refuse to."""
    log_format: Literal["text", "json"] = "text"
    """Of the log files of Ray Serve; json: an object a line."""
    access_log: bool = False
    """Log a line for each request: method, route, status, milliseconds."""
    traces: bool = False
    """Send OpenTelemetry's traces of requests to where its own variables (OTEL_...) say; needs the extra `traces`."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests that a key may send to a gateway; beyond it they get 429 with Retry-After. Null = no limit."""
    max_k: int = Field(default=100, ge=1, le=10_000)
    """Hits that a request may ask for, for each query."""
    max_queries: int = Field(default=64, ge=1)
    """Queries of one request."""
    max_inputs: int = Field(default=2048, ge=1)
    """Texts of one request for embeddings, or to be reranked; 2048 is OpenAI's limit, which clients keep to."""
    model_name: Annotated[str, Field(min_length=1)] | None = None
    """A name that clients may give the encoder by, beside its space id; null = the space id alone."""
    token_ids: str | None = None
    """Of which tiktoken encoding the token ids are that clients send in place of texts (LangChain by default:
    cl100k_base), so that they can be read back; null = refuse them. Needs the extra `tiktoken`."""
    max_characters: int = Field(default=20_000, ge=1)
    """Characters of one query or input; the encoder reads its first `max_tokens` tokens."""
    max_body_bytes: int = Field(default=8_000_000, ge=1000)
    """Bytes of a request's body; larger ones are refused with 413."""
    max_queue: int = Field(default=256, ge=1)
    """Queries that may wait in a gateway, queries whose hits may be waiting to be reranked, and queries of lexical
    searches on their way; beyond it requests get 429 with Retry-After."""
    max_batch: int = Field(default=32, ge=1)
    """Queries encoded and searched together, at most. A batch never waits to fill: it takes half of what has come."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of encoding queries. int8 is faster on a CPU; each start measures what it loses in each language."""
    query_cache: int = Field(default=8192, ge=0)
    """Queries, those asked last, whose vectors a gateway keeps. 8192 of 384 dimensions take 16 MB. 0 = none."""
    deadline_ms: int = Field(default=10_000, ge=1)
    """Milliseconds that a request may take if it names no deadline of its own, and the most it may name."""
    reranker: Annotated[str, Field(min_length=1)] | None = None
    """Folder or hub name of a cross-encoder with one output, which puts the hits of a search that asks for it in order
    again, and serves /v1/rerank. It is a deployment of its own with placement=distributed. Null = none."""
    rerank_max_tokens: int = Field(default=512, ge=16)
    """Tokens of a query and a text together that the reranker reads at most, if it can read so many; more cost more."""
    rerank_deadline_ms: int = Field(default=1000, ge=1)
    """Milliseconds that reranking a search's hits may take. What was not scored by then stands behind what was, in the
    order that it had, and says so."""

    @model_validator(mode="after")
    def _scales_upwards(self) -> Serve:
        for name, fewest in (("gateways", self.gateways), ("replicas", self.replicas)):
            most = getattr(self.scaling, name)
            if most is not None and most < fewest:
                raise ValueError(
                    f"scaling.{name}={most} is the most, and less than {name}={fewest}, which is the fewest"
                )
        if self.scaling.replicas is not None and self.placement == "local":
            raise ValueError(
                f"scaling.replicas={self.scaling.replicas} needs placement=distributed: with local, encoder and shards "
                "are in the gateways, which scaling.gateways is for"
            )
        return self
