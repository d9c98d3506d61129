"""What an experiment is: its sections, and what each field does. No input. Out: `Experiment`, all of it by default.

Files, `key=value` words and search spaces address a field by the same dotted path. Field names avoid Ray's own
(`RunConfig`, `ScalingConfig`, `DataConfig`, `CheckpointConfig`, `TuneConfig`).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from hybrid_ir.config.section import Section, setting
from hybrid_ir.config.sources import AnySource, AtlasSource

Kind = Literal["monolingual", "cross_lingual", "multilingual"]
Precision = Literal["auto", "bf16", "fp32"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Prepare(Section):
    sources: tuple[AnySource, ...] = (AtlasSource(kind="atlas"),)
    """What to read, in order: at least one."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the documents held out for early stopping; 0 = none."""
    test_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the documents held out for the final measures; 0 = none."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Prepare:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave documents to train on")
        if not self.sources:
            raise ValueError("sources is empty: name at least one, for example [{kind: atlas}]")
        return self


class EncoderSection(Section):
    name: str = setting("tiny", on_resume="keep")
    """A preset made from scratch (tiny, mini), a folder, multilingual-e5-small (from the package index), or a Hugging
    Face name (FacebookAI/xlm-roberta-base), which may name its revision: OWNER/NAME@COMMIT."""
    pooling: Literal["mean", "cls", "max"] = setting("mean", on_resume="keep")
    """Pooling of a model that brings none of its own; one that does (LaBSE, E5) keeps it."""
    query_prefix: str | None = setting(None, on_resume="keep")
    """Put before each query; "" = nothing; null = what the model itself asks for, and "Query: " for one that says
    nothing of prefixes."""
    passage_prefix: str | None = setting(None, on_resume="keep")
    """Put before each passage; "" = nothing; null = the model's own, and "Passage: " for one that says nothing."""
    max_tokens: int | None = setting(None, on_resume="keep", ge=4)
    """Tokens of the longest text, prefix and special tokens included. Longer ones are cut. Null = the model's own
    length, 256 for a preset. At most what the model has positions for."""
    dropout: float | None = setting(None, on_resume="keep", ge=0, lt=1)
    """Share of values that layers drop in training; null = the model's own, 0 for a preset."""
    vocabulary: int = setting(16000, on_resume="keep", ge=300)
    """Entries of the tokenizer that a preset trains on the store."""
    layers: int | None = setting(None, on_resume="keep", ge=1)
    """Keep so many of a pretrained encoder's layers, evenly spaced: faster, and to be trained again; null = all."""
    trim_vocabulary: bool = setting(False, on_resume="keep")
    """Keep of a pretrained encoder's vocabulary what the store's texts use, and all single characters: the same vectors
    for such texts, from a smaller encoder; false = keep all of it."""


class Batch(Section):
    size: int = setting(64, on_resume="keep", ge=2)
    """Groups in a global batch, over all workers."""
    mix: dict[Kind, Annotated[float, Field(ge=0)]] | None = setting(None, on_resume="keep")
    """Weight of each kind of batch; need not sum to 1. Null = what `alpha` says."""
    alpha: float = setting(0.5, on_resume="keep", ge=0, le=1)
    """The paper's alpha: {monolingual: alpha, cross_lingual: 1 - alpha}. Used when `mix` is null."""
    cross_lingual: Literal["per_row", "per_batch"] = setting("per_row", on_resume="keep")
    """per_row: every row its own language pair (the paper's X-Y); per_batch: one ordered pair a batch."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = setting(None, on_resume="keep")
    """Train on these (ISO 639-1 codes), all pairs of them; null = every language and pair that the store can serve."""
    language_temperature: float | None = setting(None, on_resume="keep", gt=0)
    """Languages and pairs weigh groups ** (1 / temperature); 1 = by size; null = uniform."""
    positives: Literal["answer", "same_text"] = setting("answer", on_resume="keep")
    """answer: a query's positive is its passage; same_text: the passage itself, told apart by dropout (SimCSE)."""
    hard_negatives: int = setting(1, on_resume="keep", ge=1)
    """Hard negatives of a row, where `loss.negatives` has them: drawn from its group's, and all if it has fewer."""
    code_switch: float = setting(0.0, on_resume="keep", ge=0, le=1)
    """Share of a text's lexicon words that are swapped for translations into other languages of the store; 0 = none."""
    lexicon: str = setting("cldr", on_resume="keep")
    """Where translations come from: cldr (names of places, languages, currencies), or a file or folder of lexicons."""

    @model_validator(mode="after")
    def _some_weight(self) -> Batch:
        if self.mix is not None and sum(self.mix.values()) <= 0:
            raise ValueError(f"mix must have a positive weight, got {self.mix}")
        if self.positives == "same_text" and "cross_lingual" in self.weights:
            raise ValueError(
                "positives=same_text pairs a text with itself, which has one language: set mix without cross_lingual "
                "(for example mix={monolingual: 1})"
            )
        return self

    @property
    def weights(self) -> dict[Kind, float]:
        """Weight of each kind that is asked for, normalised to sum to 1."""
        mix = self.mix or {"monolingual": self.alpha, "cross_lingual": 1 - self.alpha}
        total = sum(mix.values())
        return {kind: mix[kind] / total for kind in KINDS if mix.get(kind, 0) > 0}


class Loss(Section):
    temperature: float = setting(0.05, on_resume="keep", gt=0)
    """InfoNCE divides cosines by this. The paper prints none: 1 is that of its Eq. 1."""
    symmetric: bool = setting(False, on_resume="keep")
    """Also rank the batch's queries for each passage, and average the two directions; false = do not."""
    negatives: Literal["in_batch", "in_batch_and_hard", "triplet"] = setting("in_batch", on_resume="keep")
    """in_batch: other rows' positives; in_batch_and_hard: and every row's hard negatives; triplet: hard negatives
    only (Eq. 1 as printed). The last two need a store whose groups have `negatives`."""
    cached: bool = setting(False, on_resume="free")
    """Gradient cache: memory of one micro-batch whatever the batch, for a second forward pass; false = none."""
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = setting((), on_resume="keep")
    """Matryoshka (arXiv 2205.13147): the loss is also that of the first so many values of each vector, for each of
    these, so that `encoder shorten` costs little. Empty = that of whole vectors alone."""

    @model_validator(mode="after")
    def _different_dimensions(self) -> Loss:
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError(f"dimensions has one twice: {list(self.dimensions)}")
        return self


class Train(Section):
    steps: int = setting(300, on_resume="keep", ge=1)
    """Optimiser steps; one global batch each."""
    learning_rate: float = setting(3e-5, on_resume="keep", gt=0)
    """AdamW's, where it is highest: after the warm-up. From there it decays linearly to zero."""
    weight_decay: float = setting(0.01, on_resume="keep", ge=0)
    """AdamW's, of all but biases and layer norms; 0 = none."""
    warmup_steps: int = setting(0, on_resume="keep", ge=0)
    """Steps in which the learning rate rises linearly; 0 = it starts at its highest."""
    gradient_clip: float | None = setting(1.0, on_resume="keep", gt=0)
    """Largest norm of the gradient; null = no clipping."""
    precision: Precision = setting("auto", on_resume="keep")
    """bf16: products of the transformer; all else stays in float32. fp32: nothing in bf16. auto: bf16 where faster."""
    micro_batch_tokens: int | None = setting(None, on_resume="free", ge=16)
    """Tokens a forward pass holds, with padding where there is any. Null = 8192 on a CPU, 32768 on a GPU."""
    compile: bool = setting(False, on_resume="free")
    """torch.compile the encoder (for GPUs; the first steps are slow); false = run it as it is."""
    flash_attention: bool = setting(False, on_resume="free")
    """On a GPU, read texts end to end and without padding, through FlashAttention (arXiv 2307.08691): for bf16 and
    encoders of BERT's kin. It was built and never run on a GPU, so it is off by default. A CPU never pads them."""
    workers: int = setting(1, on_resume="free", ge=1)
    """Processes that train together (DDP), each on its slice of the batch; 1 = alone."""
    cpus_per_worker: float = setting(1.0, on_resume="free", gt=0)
    """CPUs that Ray reserves for a worker; a fraction lets workers and data actors share a small machine."""
    gpus_per_worker: float = setting(0.0, on_resume="free", ge=0)
    """GPUs that Ray reserves for a worker; 0 = train on the CPU."""
    threads_per_worker: int | None = setting(None, on_resume="free", ge=1)
    """torch threads of a CPU worker; null = the CPUs of the machine, or of its container, divided by the workers on
    it."""
    feed: Literal["ray_data", "in_process"] = setting("ray_data", on_resume="free")
    """ray_data: batches are built by Ray Data actors on any node; in_process: by a thread in each worker."""
    data_actors: int = setting(1, on_resume="free", ge=1)
    """Actors that build batches (feed: ray_data)."""
    cpus_per_data_actor: float = setting(0.5, on_resume="free", gt=0)
    """CPUs that Ray reserves for each of them."""
    evaluate_every: int | None = setting(None, on_resume="keep", ge=1)
    """Measure on the store's validation split every so many steps; null = only after the last."""
    validation_groups: int | None = setting(1000, on_resume="keep", ge=1)
    """Groups of the validation split that are measured on, chosen by the seed, with their passages; null = all. A
    thousand in eleven languages are 22 thousand texts to encode."""
    validation: Literal["inline", "async"] = setting("inline", on_resume="keep")
    """inline: the workers stop for each validation; async: a Ray task of its own measures each checkpoint while they go
    on (it needs `cpus_per_validation` beside them)."""
    cpus_per_validation: float = setting(1.0, on_resume="free", gt=0)
    """CPUs that Ray reserves for that task (validation: async)."""
    gpus_per_validation: float = setting(0.0, on_resume="free", ge=0)
    """GPUs that Ray reserves for that task; 0 = measure on the CPU."""
    patience: int | None = setting(None, on_resume="keep", ge=1)
    """Stop after so many validations without a better `early_stopping_measure`; null = never."""
    early_stopping_measure: Literal["AP_mono", "AP_cross", "AP_multi", "AP_mean"] = setting("AP_mean", on_resume="keep")
    """What chooses the checkpoint that is kept. AP_mean is the mean of the three."""
    checkpoint_every: int | None = setting(None, on_resume="free", ge=1)
    """Also save a resumable checkpoint every so many steps; null = by clock, at validations, on Ctrl-C, at the end."""
    checkpoint_minutes: float | None = setting(5.0, on_resume="free", gt=0)
    """Save a resumable checkpoint when the last one is this old, whatever a step takes; null = never for its age."""
    checkpoints_kept: int = setting(2, on_resume="free", ge=1)
    """Resumable checkpoints that stay while the run goes on: the newest, and older ones for where it is damaged."""
    max_failures: int = setting(3, on_resume="free", ge=0)
    """Restarts after a lost node or a killed process before giving up; 0 = none. Other failures are said at once."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = setting(("tensorboard",), on_resume="free")
    """Where rows of the log go besides log.jsonl; [] = nowhere. mlflow and wandb read their environment variables."""

    @model_validator(mode="after")
    def _compiled_or_packed(self) -> Train:
        if self.compile and self.flash_attention:
            raise ValueError("compile and flash_attention exclude each other: set one of them to false")
        return self


class Evaluate(Section):
    precision: Precision = setting("auto", on_resume="free")
    """Of encoding; as train.precision."""
    token_budget: int | None = setting(None, on_resume="free", ge=64)
    """Padded tokens of one encoding batch; null = 4096 on a CPU, 65536 on a GPU."""
    bootstrap_rounds: int = setting(1000, on_resume="free", ge=0)
    """Resamples behind the 95 % intervals; 0 = no intervals."""


class Index(Section):
    codec: str | None = None
    """faiss.index_factory string: Flat, or IVF with SQ8, PQ and so on. Null = Flat below 100,000 a shard, else SQ8."""
    candidates: int = Field(default=4, ge=1, le=256)
    """Passages that a lossy codec finds for each hit (of ten at least), to be scored exactly; a coarser needs more."""
    shards: int | None = Field(default=None, ge=1, le=1024)
    """Parts that are built and searched apart; null = one a million passages."""
    sharding: Literal["language", "random"] = "language"
    """language: a shard holds whole languages as far as sizes allow; random: every shard holds all of them."""
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
    cpus_per_replica: float = Field(default=0.2, gt=0)
    """CPUs that Ray reserves for a gateway, encoder or shard replica."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch and FAISS in a replica; null = the CPUs of the machine, or of its container, divided by the
    gateways (local) or by two (distributed)."""
    api_keys: tuple[str, ...] = ()
    """Requests must carry one of these as `Authorization: Bearer KEY`; empty = no key asked for. Also read from
    HYBRID_IR_API_KEYS (comma-separated), which keeps them out of files and process lists."""
    allow_public: bool = False
    """Serve a public interface without API keys; false = refuse to."""
    max_k: int = Field(default=100, ge=1, le=10_000)
    """Hits that a request may ask for, for each query."""
    max_queries: int = Field(default=64, ge=1)
    """Queries of one request."""
    max_inputs: int = Field(default=2048, ge=1)
    """Texts of one request for embeddings; 2048 is OpenAI's limit, which clients keep to."""
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
    """Queries that may wait in a gateway; beyond it requests get 429 with Retry-After."""
    max_batch: int = Field(default=32, ge=1)
    """Queries encoded and searched together, at most. A batch never waits to fill: it takes half of what has come."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of encoding queries. int8 is faster on a CPU; each start measures what it loses in each language."""
    query_cache: int = Field(default=8192, ge=0)
    """Queries, those asked last, whose vectors a gateway keeps. 8192 of 384 dimensions take 16 MB. 0 = none."""
    deadline_ms: int = Field(default=10_000, ge=1)
    """Milliseconds that a request may take if it names no deadline of its own, and the most it may name."""


class Experiment(Section):
    seed: int = setting(0, on_resume="keep", ge=0, lt=2**32)
    """Every random choice comes from it: split, shuffle, batches, initial weights, dropout."""
    store: str = setting("store", on_resume="free")
    """Folder or URI that `prepare` writes and `train` reads."""
    out: str = setting("runs/run", on_resume="free")
    """Folder of the run: checkpoint, ledger, measures, logs."""
    # A run has the content hash of its store, and no index or service: these sections choose for all that is in them.
    prepare: Prepare = setting(Prepare(), on_resume="free")
    """What the store is made of, and which part of it is held out."""
    encoder: EncoderSection = EncoderSection()
    """The model that is trained."""
    batch: Batch = Batch()
    """What a global batch holds, and in which languages."""
    loss: Loss = Loss()
    """What is minimised."""
    train: Train = Train()
    """How long and how fast, on which machines, and what is measured on the way."""
    evaluate: Evaluate = Evaluate()
    """How checkpoints are measured: while training, and by `evaluate`."""
    index: Index = setting(Index(), on_resume="free")
    """How passages are encoded, compressed and cut into shards."""
    serve: Serve = setting(Serve(), on_resume="free")
    """Where the search service listens, what it runs on, and what it refuses."""
