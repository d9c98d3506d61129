"""What a size needs, by arithmetic from stated constants. In: passages or groups, an encoder, the constants.

Out: nodes, GB (1e9 bytes) of memory and disk, hours. Terms follow the code that causes them (named beside each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any

from hybrid_ir.config import did_you_mean, split_override
from hybrid_ir.data import BUCKETS
from hybrid_ir.index import ROWS_PER_SHARD, default_codec
from hybrid_ir.tuning import ASSUMED_TOKENS, GPU_FLOPS, LAYERS, parameters
from hybrid_ir.types import InputError

SIZES = (1e6, 1e7, 1e8)
TRAINED_LISTS, TRAINED_DIMENSION = 4096, 384
"""Of the measured index of a million (benchmarks/index_size.py)."""
KMEANS_ROUNDS = 10
"""Of faiss' IVF training, which sees 64 vectors a list (index_build.train_codec)."""


def _measured(value: float, unit: str, source: str) -> Any:
    return field(default=value, metadata={"unit": unit, "source": source, "measured": True})


def _assumed(value: float, unit: str, source: str) -> Any:
    return field(default=value, metadata={"unit": unit, "source": source, "measured": False})


@dataclass(frozen=True)
class Constants:
    """What everything is computed from. Measured: on 2 CPU cores; no GPU and no second node was ever measured."""

    core_flops: float = _measured(40e9, "FLOP/s a core", "k-means of 4096 lists in 102 s (index_size.py)")
    query_core_s: float = _measured(
        9.9e-4, "s a query and shard", "1,008/s, 2 shards of half a million (index_size.py)"
    )
    flat_query_core_s: float = _measured(1.4e-7, "s a query and row", "Flat: 141 queries/s at 100 thousand")
    write_core_s: float = _measured(25e-6, "s a passage", "a million in 52 s on 2 cores, less its list assignment")
    gate_s: float = _measured(1.1e-6, "s a passage and language", "11 s, a million passages, ten languages")
    ingest_per_s: float = _measured(38_000, "passages/s", "index_build.ingest, one process, JSON lines")
    seen_bytes: float = _measured(69, "bytes a passage", "ingest's set of doc_id hashes (tracemalloc)")
    cut_bytes: float = _measured(20, "bytes a passage", "cut_shards and its languages (plan_scale.py)")
    replica_mb: float = _measured(113, "MB", "129 MB at ten thousand passages, less 16 of index (index_size.py)")
    hop_ms: float = _measured(4, "ms", "p50 26.5 distributed less 18.5 local, two hops (benchmarks/serve.py)")
    encode_core_flops: float = _measured(69e9, "FLOP/s a core", "378 texts/s of 58 tokens, mini (encoding.py)")
    prepare_s: float = _measured(101e-6, "s a group", "a million groups in 101 s, one process (store_size.py)")
    document_bytes: float = _measured(262, "bytes a document", "prepare's tables of documents (tracemalloc)")
    group_memory_bytes: float = _measured(1739, "bytes a group", "Group of three short versions (tracemalloc)")
    builder_mb: float = _measured(622, "MB", "a data actor at a million groups, 592 at ten thousand (store_size.py)")
    builder_pairs_per_s: float = _measured(6100, "pairs/s", "96 batches of 64 on a busy core (store_size.py)")
    gpu_flops: float = _assumed(GPU_FLOPS, "FLOP/s a GPU", "35 % of an A100's bf16 peak, as cost.py; never measured")
    pair_tokens: float = _assumed(ASSUMED_TOKENS, "tokens", "query and passage, as cost.py")
    passage_tokens: float = _assumed(130, "tokens", "a Wikipedia paragraph")
    query_tokens: float = _assumed(20, "tokens", "")
    text_bytes: float = _assumed(600, "bytes", "UTF-8 of a passage; a query a tenth")
    record_bytes: float = _assumed(30, "bytes", "doc_id, language, offsets of a passage; more with metadata")
    versions: float = _assumed(2, "languages a group", "")
    compression: float = _assumed(0.5, "of the text", "zstd in the store's Parquet")
    vocabulary: float = _assumed(250_000, "entries", "XLM-R's; 4 bytes x hidden size each")
    held_out: float = _assumed(0.2, "of the groups", "validation and test fractions by default; lower it")
    languages: float = _assumed(18, "languages", "as MIRACL")
    node_cores: float = _assumed(16, "cores", "")
    node_memory_gb: float = _assumed(128, "GB", "")
    usable_memory: float = _assumed(0.75, "of a node's", "the rest: Ray's object store, the system")
    gpus: float = _assumed(8, "GPUs", "for training and for encoding passages")
    gpus_per_node: float = _assumed(8, "GPUs", "")
    replicas: float = _assumed(1, "", "serve.replicas; 2 = no shard lost with a node")
    batch: float = _assumed(64, "groups", "batch.size")


@dataclass(frozen=True)
class Request:
    constants: Constants = Constants()
    encoder: str = "FacebookAI/xlm-roberta-base"
    dimension: int = 768
    passages: tuple[float, ...] = SIZES
    groups: tuple[float, ...] = SIZES


@dataclass(frozen=True)
class IndexPlan:
    passages: float
    codec: str
    shards: int
    bytes_a_vector: float
    """Of the codes: list centroids included, float16 vectors not."""
    disk_gb: float
    build_disk_gb: float
    """Index and fragments together, before the fragments are deleted."""
    build_memory_gb: float
    """The driver's, at its largest stage."""
    memory_gb: float
    """All serving nodes': every shard wholly resident, and the encoder."""
    nodes: int
    hours: dict[str, float]
    """Of each stage of the build."""
    searches_per_s: float
    """The shards', queries encoded already."""
    encoded_per_s: float
    """Queries that the encoder's replicas encode, on all CPUs of a node each."""
    p50_ms: float
    """Of one connection: two hops, one after the other, around encoding and searching."""


@dataclass(frozen=True)
class TrainingPlan:
    groups: float
    disk_gb: float
    prepare_disk_gb: float
    """Store and scratch together."""
    prepare_memory_gb: float
    prepare_hours: float
    nodes: int
    data_actors: int
    memory_gb: float
    """Weights, gradients and Adam's moments of every worker, and the data actors; no activations."""
    steps: float
    """Of an epoch."""
    hours: float
    """Of an epoch, data actors keeping up."""
    gpu_hours: float


def parse_request(overrides: Sequence[str]) -> Request:
    """`key=value` words: a field of `Constants`, or encoder, dimension, passages, groups.

    Raises InputError for an unknown key (with the nearest known one), and a value that is not a positive number."""
    known = [*(f.name for f in fields(Constants)), "encoder", "dimension", "passages", "groups"]
    given: dict[str, str] = {}
    for override in overrides:
        key, text = split_override(override, "passages=1e8")
        if key not in known:
            raise InputError(f"unknown key {key!r}; {did_you_mean(key, known)}")
        given[key] = text
    encoder = given.pop("encoder", Request.encoder)
    if encoder not in LAYERS:
        raise InputError(f"the size of encoder {encoder!r} is not known; known are {', '.join(LAYERS)}")
    numbers = {key: _positive(key, text) for key, text in given.items()}
    for key in ("usable_memory", "held_out", "compression"):
        if numbers.get(key, 0) > 1:
            raise InputError(f"{key} is a share, at most 1, got {given[key]}")
    for key in ("dimension", "passages", "groups", "gpus", "gpus_per_node", "replicas"):
        if numbers.get(key, 1) % 1:
            raise InputError(f"{key} must be a whole number, got {given[key]}")
    dimension = int(numbers.pop("dimension", LAYERS[encoder][1]))
    passages, groups = ((numbers.pop(key),) if key in numbers else SIZES for key in ("passages", "groups"))
    return Request(Constants(**numbers), encoder, dimension, passages, groups)


def _positive(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise InputError(f"{key} must be a number above 0, got {text!r}")
    return value


def plan_index(passages: float, dimension: int, encoder: str, c: Constants) -> IndexPlan:
    """Raises InputError where one shard does not fit a node."""
    layers = parameters(LAYERS[encoder])
    # index_job.build_index and index_build.default_codec choose both.
    shards = ceil(passages / ROWS_PER_SHARD)
    codec = default_codec(int(passages), shards)
    lists = 0 if codec == "Flat" else int(codec.removeprefix("IVF").partition(",")[0])
    # index_folder: vectors.faiss (SQ8: a byte a dimension, an 8-byte id; centroids in every shard), vectors.f16.npy,
    # ids.npy, passages.arrow.
    codes = 4 * dimension if not lists else dimension + 8 + 4 * dimension * lists * shards / passages
    text = c.text_bytes + c.record_bytes
    disk = passages * (codes + (2 * dimension if lists else 0) + 8 + text)
    fragments = passages * (4 * dimension + text + 2)
    sample = 64 * lists * 4 * dimension
    build_memory = max(passages * c.seen_bytes, passages * c.cut_bytes, sample)

    replica = disk / shards + c.replica_mb * 1e6  # deployments.bytes_of: all of a shard is mapped
    encoder_bytes = _weights(encoder, c) * 4 + c.replica_mb * 1e6
    usable = c.node_memory_gb * 1e9 * c.usable_memory
    a_node = int(usable // replica)
    if not a_node or encoder_bytes > usable:
        raise InputError(
            f"a shard takes {replica / 1e9:.1f} GB and the encoder {encoder_bytes / 1e9:.1f}, "
            f"a node has {usable / 1e9:.1f} usable; raise node_memory_gb"
        )
    memory = c.replicas * (shards * replica + encoder_bytes)
    # Replicas on one node would share pages, and die together: each of a shard's counts, on a node of its own.
    nodes = max(ceil(shards * c.replicas / a_node), ceil(memory / usable), int(c.replicas))

    assign = 2 * lists * dimension  # floating point operations to find a vector's list
    node_flops = c.core_flops * c.node_cores
    hours = {
        "ingest": passages / c.ingest_per_s / 3600,
        "encode": passages * c.passage_tokens * 2 * layers / (c.gpus * c.gpu_flops) / 3600,
        "train codec": 64 * lists * assign * KMEANS_ROUNDS / node_flops / 3600,
        "write shards": passages * (c.write_core_s + assign / c.core_flops) / (nodes * c.node_cores) / 3600,
        "recall gate": passages * c.languages * c.gate_s / 3600,
    }
    if lists:
        # Every shard finds the lists itself; as many as were measured are in the measured time.
        more = max(0, assign - 2 * TRAINED_LISTS * TRAINED_DIMENSION)
        query_s = c.query_core_s + more / c.core_flops
    else:
        query_s = c.flat_query_core_s * passages / shards * dimension / TRAINED_DIMENSION
    node_query_s = shards / nodes * query_s  # a query asks one replica of every shard
    encode_core_s = c.query_tokens * 2 * layers / c.encode_core_flops
    return IndexPlan(
        passages=passages,
        codec=codec,
        shards=shards,
        bytes_a_vector=codes,
        disk_gb=disk / 1e9,
        build_disk_gb=(disk + fragments) / 1e9,
        build_memory_gb=build_memory / 1e9,
        memory_gb=memory / 1e9,
        nodes=nodes,
        hours=hours,
        searches_per_s=c.node_cores / node_query_s,
        encoded_per_s=c.replicas * c.node_cores / encode_core_s,
        # deployments: an encoder's threads are half the node's; one shard searches one query on one.
        p50_ms=2 * c.hop_ms + 1000 * (2 * encode_core_s / c.node_cores + max(query_s, node_query_s / c.node_cores)),
    )


def plan_training(groups: float, encoder: str, c: Constants) -> TrainingPlan:
    layers = parameters(LAYERS[encoder])
    raw = groups * c.versions * 1.1 * c.text_bytes
    disk = raw * c.compression
    # prepare: tables of all documents, one bucket, and what is held out.
    memory = groups * (c.document_bytes + c.group_memory_bytes * (1 / BUCKETS + c.held_out))
    pairs_per_s = c.gpus * c.gpu_flops / (6 * layers * c.pair_tokens)
    actors = ceil(pairs_per_s / c.builder_pairs_per_s)
    return TrainingPlan(
        groups=groups,
        disk_gb=disk / 1e9,
        prepare_disk_gb=(raw + disk) / 1e9,
        prepare_memory_gb=memory / 1e9,
        prepare_hours=groups * c.prepare_s / 3600,
        nodes=ceil(c.gpus / c.gpus_per_node),
        data_actors=actors,
        memory_gb=(c.gpus * 16 * _weights(encoder, c) + actors * c.builder_mb * 1e6) / 1e9,
        steps=groups / c.batch,
        hours=groups / pairs_per_s / 3600,
        gpu_hours=groups / pairs_per_s / 3600 * c.gpus,
    )


def _weights(encoder: str, c: Constants) -> float:
    shape = LAYERS[encoder]
    return parameters(shape) + c.vocabulary * shape[1]
