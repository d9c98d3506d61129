"""One frozen description of an experiment: YAML, `key=value` overrides and Tune spaces address the same dotted paths.

A config describes; it never holds a model, a handle or an open file. Unknown keys are refused, with the nearest known
one. Field names avoid Ray's own (`RunConfig`, `ScalingConfig`, `DataConfig`, `CheckpointConfig`, `TuneConfig`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from hybrid_ir.config.sources import SOURCES, AnySource, AtlasSource, Section
from hybrid_ir.types import InputError

KINDS = ("monolingual", "cross_lingual", "multilingual")
Kind = Literal["monolingual", "cross_lingual", "multilingual"]
# Named trainings, as changes to an experiment: the mixes of the paper's table 1, LAReQA's X-X, and the usual baselines.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "monolingual": {"batch": {"mix": {"monolingual": 1.0}}},
    "cross_lingual": {"batch": {"mix": {"cross_lingual": 1.0}}},
    "multilingual": {"batch": {"mix": {"multilingual": 1.0}}},
    "hybrid": {"batch": {"mix": {"monolingual": 0.5, "cross_lingual": 0.5}}},
    "english_only": {"batch": {"mix": {"monolingual": 1.0}, "languages": ("en",)}},
    # arXiv 2104.08821. Supervised: English pairs, each with its hard negative, which the store must have.
    "simcse": {
        "batch": {"mix": {"monolingual": 1.0}, "positives": "same_text"},
        "loss": {"negatives": "in_batch"},
    },
    "simcse_supervised": {
        "batch": {"mix": {"monolingual": 1.0}, "languages": ("en",)},
        "loss": {"negatives": "in_batch_and_hard"},
    },
    # The shuffled mixture: every row in its own language, languages by their size.
    "multilingual_finetuning": {"batch": {"mix": {"multilingual": 1.0}, "language_temperature": 1.0}},
    "code_switched": {"batch": {"mix": {"monolingual": 1.0}, "code_switch": 0.5}},  # arXiv 2305.05295
}


class Prepare(Section):
    sources: tuple[AnySource, ...] = (AtlasSource(kind="atlas"),)
    """What to read, in order."""
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
    name: str = "tiny"
    """A preset made from scratch (tiny, mini), a folder, or a Hugging Face name (FacebookAI/xlm-roberta-base)."""
    pooling: Literal["mean", "cls", "max"] = "mean"
    """Pooling of a model that brings none of its own; one that does (LaBSE, E5) keeps it."""
    query_prefix: str = "Query: "
    passage_prefix: str = "Passage: "
    max_tokens: int = Field(default=256, ge=4)
    """Longer texts are cut, prefix and special tokens included."""
    vocabulary: int = Field(default=16000, ge=300)
    """Entries of the tokenizer that a preset trains on the store."""


class Batch(Section):
    size: int = Field(default=64, ge=2)
    """Groups in a global batch, over all workers."""
    mix: dict[Kind, Annotated[float, Field(ge=0)]] | None = None
    """Weight of each kind of batch; need not sum to 1. Null = what `alpha` says."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """The paper's alpha: {monolingual: alpha, cross_lingual: 1 - alpha}. Used when `mix` is null."""
    cross_lingual: Literal["per_row", "per_batch"] = "per_row"
    """per_row: every row its own language pair (the paper's X-Y); per_batch: one ordered pair a batch."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Train on these, all pairs of them; null = every language and pair that the store can serve."""
    language_temperature: float | None = Field(default=None, gt=0)
    """Languages and pairs weigh groups ** (1 / temperature); 1 = by size; null = uniform."""
    positives: Literal["answer", "same_text"] = "answer"
    """answer: a query's positive is its passage; same_text: the passage itself, told apart by dropout alone (SimCSE)."""
    code_switch: float = Field(default=0.0, ge=0, le=1)
    """Share of a text's lexicon words that are swapped for their translation into other languages of the store."""
    lexicon: str = "cldr"
    """Where translations come from: cldr (names of places, languages, currencies), or a file or folder (see the README)."""

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
    temperature: float = Field(default=0.05, gt=0)
    """InfoNCE divides cosines by this. The paper prints none: 1 is Eq. 1's."""
    symmetric: bool = False
    """Also rank the batch's queries for each passage, and average the two directions."""
    negatives: Literal["in_batch", "in_batch_and_hard", "triplet"] = "in_batch"
    """in_batch: other rows' positives; in_batch_and_hard: and every row's hard negative; triplet: hard negatives
    only (Eq. 1 as printed). The last two need a store whose groups have `negatives`."""
    cached: bool = False
    """Gradient cache: memory of one micro-batch whatever the batch, at the price of a second forward pass."""


class Train(Section):
    steps: int = Field(default=300, ge=1)
    """Optimiser steps; one global batch each."""
    learning_rate: float = Field(default=3e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    """Linear warm-up, then linear decay to zero."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null = no clipping."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16: autocast of the transformer; weights, optimiser, pooling and loss stay in float32. auto: where faster."""
    micro_batch_tokens: int | None = Field(default=None, ge=16)
    """Padded tokens a forward pass holds; the slice is sorted by length and cut by this. Null = 1024 on a CPU
    (measured: a fifth faster than 4096), 32768 on a GPU."""
    compile: bool = False
    """torch.compile the encoder (for GPUs; the first steps are slow)."""
    workers: int = Field(default=1, ge=1)
    """DDP processes."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for a worker; a fraction lets workers and data actors share a small machine."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """0 = train on the CPU."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """torch threads of a CPU worker; null = the machine's CPUs divided by the workers."""
    feed: Literal["ray_data", "in_process"] = "ray_data"
    """ray_data: batches are built by Ray Data actors on any node; in_process: by a thread in each worker."""
    data_actors: int = Field(default=1, ge=1)
    """Actors that build batches (feed: ray_data)."""
    cpus_per_data_actor: float = Field(default=0.5, gt=0)
    evaluate_every: int | None = Field(default=None, ge=1)
    """Measure on the store's validation split every so many steps; null = only after the last."""
    validation: Literal["inline", "async"] = "inline"
    """inline: the workers stop for each validation; async: a Ray task of its own measures each checkpoint while they go
    on (it needs `cpus_per_validation` beside them)."""
    cpus_per_validation: float = Field(default=1.0, gt=0)
    gpus_per_validation: float = Field(default=0.0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better `early_stopping_measure`; null = never."""
    early_stopping_measure: Literal["AP_mono", "AP_cross", "AP_multi", "AP_mean"] = "AP_mean"
    """What chooses the checkpoint that is kept. AP_mean is the mean of the three."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Save a resumable checkpoint every so many steps; null = at validations, on Ctrl-C and at the end."""
    max_failures: int = Field(default=3, ge=0)
    """Restarts of the worker group (a lost node, a killed worker) before giving up."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where rows of the log go besides log.jsonl. mlflow and wandb are configured by their own environment variables."""


class Evaluate(Section):
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """As train.precision."""
    token_budget: int | None = Field(default=None, ge=64)
    """Padded tokens of one encoding batch. Null = 4096 on a CPU, 65536 on a GPU."""
    bootstrap_rounds: int = Field(default=1000, ge=0)
    """Resamples behind the 95 % intervals; 0 = no intervals."""


class Index(Section):
    codec: str | None = None
    """faiss.index_factory string: Flat, or IVF with Flat, SQ8, PQ and the like. Null = Flat below 100 thousand passages a
    shard, IVF with SQ8 above."""
    shards: int | None = Field(default=None, ge=1, le=1024)
    """Null = one a million passages."""
    sharding: Literal["language", "random"] = "language"
    """language: a shard holds whole languages as far as sizes allow; random: every shard holds all of them."""
    recall_target: float = Field(default=0.98, ge=0, le=1)
    """Recall@10 of exact search that each language must reach; what is built below it is refused. 0 = no gate."""
    recall_sample: int = Field(default=50, ge=1)
    """Passages of each language that the gate searches for."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """As train.precision."""
    token_budget: int | None = Field(default=None, ge=64)
    """As evaluate.token_budget."""
    actors: int = Field(default=1, ge=1)
    """Ray Data actors that encode, and tasks that write shards, at a time."""
    cpus_per_actor: float = Field(default=1.0, gt=0)
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """0 = encode on the CPU."""


class Serve(Section):
    host: str = "127.0.0.1"
    """Interface to listen on; 0.0.0.0 = all. A public one needs API keys, or allow_public."""
    port: int = Field(default=8000, ge=1, le=65535)
    placement: Literal["auto", "local", "distributed"] = "auto"
    """local: encoder and shards in the gateway's process; distributed: a deployment each. auto: local where the shards
    fit into a quarter of the node's memory."""
    gateways: int = Field(default=1, ge=1)
    """Replicas of the gateway."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of the encoder and of every shard (placement: distributed)."""
    cpus_per_replica: float = Field(default=0.2, gt=0)
    """CPUs that Ray reserves for a gateway, encoder or shard replica."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch and FAISS in a replica; null = the machine's CPUs, divided by the gateways (local) or by two (distributed)."""
    api_keys: tuple[str, ...] = ()
    """Requests must carry one of these as `Authorization: Bearer KEY`. Also read from HYBRID_IR_API_KEYS (comma-separated),
    which keeps them out of files and process lists. Empty = no key asked for."""
    allow_public: bool = False
    """Serve a public interface without API keys."""
    max_k: int = Field(default=100, ge=1, le=10_000)
    max_queries: int = Field(default=64, ge=1)
    """Queries or embedding inputs of one request."""
    max_characters: int = Field(default=20_000, ge=1)
    """Of one query or input; the encoder reads its first `max_tokens` tokens."""
    max_body_bytes: int = Field(default=2_000_000, ge=1000)
    max_queue: int = Field(default=256, ge=1)
    """Queries that may wait in a gateway; beyond it requests get 429 with Retry-After."""
    max_batch: int = Field(default=32, ge=1)
    """Queries encoded and searched together. A batch never waits to fill: it takes what has come."""
    deadline_ms: int = Field(default=10_000, ge=1)
    """Longest a request may take if it names no deadline of its own, and the longest it may name."""


class Experiment(Section):
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Every random choice comes from it: split, shuffle, batches, initial weights, dropout."""
    store: str = "store"
    """Folder or URI that `prepare` writes and `train` reads."""
    out: str = "runs/run"
    """Folder of the run: checkpoint, ledger, measures, logs."""
    prepare: Prepare = Prepare()
    encoder: EncoderSection = EncoderSection()
    batch: Batch = Batch()
    loss: Loss = Loss()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    index: Index = Index()
    serve: Serve = Serve()


def load_experiment(file: str | Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """The defaults, changed by a YAML file, changed by `dotted.path=value` overrides (values are YAML).

    Raises InputError that names the key, the value found, the file it came from, and the nearest known key.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        if not Path(file).is_file():
            raise InputError(f"no config file at {file}; tune_configs/ has examples")
        try:
            tree = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from error
        if not isinstance(tree, dict):
            raise InputError(f"{file} must hold a mapping at its top, found {type(tree).__name__}")
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise InputError(f"an override must look like train.steps=100, got {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"the value of {override!r} is not YAML: {' '.join(str(error).split())}") from error
        _set_path(tree, path.split("."), value)
    origins = [*([str(file)] if file is not None else []), *(["command line"] if overrides else [])]
    return parse_experiment(tree, " + ".join(origins) or "defaults")


def recipe_experiments(base: Experiment, recipes: Sequence[str]) -> dict[str, Experiment]:
    """One experiment a named recipe, each in its own folder under `base.out`. Raises InputError for an unknown name."""
    if len(set(recipes)) != len(recipes) or not recipes:
        raise InputError(f"mixes must be named once each, got {', '.join(recipes) or 'none'}")
    return {name: with_values(base, {"recipe": name, "out": f"{base.out}/{name}"}) for name in recipes}


def with_values(base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """`base` with other values at dotted paths, checked as a file's are. The path `recipe` stands for what the named
    recipe changes. Raises InputError for an unknown path or recipe, or a value that its field refuses."""
    tree = base.model_dump(mode="json")
    for path, value in values.items():
        if path != "recipe":
            _set_path(tree, path.split("."), value)
            continue
        if value not in RECIPES:
            raise InputError(f"unknown mix or recipe {value!r}; there are {', '.join(RECIPES)}")
        for section, changes in RECIPES[value].items():
            for field, setting in changes.items():
                _set_path(tree, [section, field], setting)
    return parse_experiment(tree, ", ".join(f"{path}={value}" for path, value in values.items()))


def parse_experiment(tree: dict[str, Any], origin: str) -> Experiment:
    """Validate a nested mapping. `origin` is named in the error."""
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise InputError("\n".join(_explain(e, origin) for e in error.errors())) from None


def _set_path(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    node: Any = tree
    default: Any = Experiment()
    for depth, key in enumerate(keys[:-1]):
        at = _place(node, keys, depth)
        default = getattr(default, key, None) if isinstance(default, Section) else None
        if isinstance(node, dict) and node.get(key) is None:
            # A list is addressed by position, so it must be there: its default if the file has none.
            listed = isinstance(default, tuple)
            node[key] = [entry.model_dump(mode="json") for entry in default] if listed else {}
        node = node[at]
    node[_place(node, keys, len(keys) - 1)] = value


def _place(node: Any, keys: list[str], depth: int) -> Any:
    """What `node`, at keys[:depth], calls keys[depth]: a list counts. Raises InputError if it can hold no such key."""
    key = keys[depth]
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise InputError(f"{'.'.join(keys[: depth + 1])}: the list has {len(node)} entries, numbered from 0")
        return int(key)
    if not isinstance(node, dict):
        raise InputError(f"{'.'.join(keys[:depth])} is a value, it has no key {key!r}")
    return key


def _explain(error: Any, origin: str) -> str:
    """One line for one pydantic error: the dotted path, what was found, what to do."""
    location = [str(part) for part in error["loc"] if part not in (*SOURCES, "[key]")]
    path = ".".join(location)
    if error["type"] == "extra_forbidden":
        here = _known_keys(error["loc"][:-1])
        near = _nearest(location[-1], here) or _nearest(location[-1], _every_key(Experiment))
        hint = f"did you mean {near!r}?" if near else f"known keys here: {', '.join(here)}"
        return f"unknown key {path!r}; {hint} ({origin})"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        found = error["input"].get("kind") if isinstance(error["input"], dict) else error["input"]
        return f"{path}: kind must be one of {', '.join(SOURCES)}, got {found!r} ({origin})"
    message = error["msg"].removeprefix("Value error, ")
    # Where a whole section is at fault its message names the field, and the input is all of it.
    shown = "" if error["type"] in ("missing", "value_error") else f", got {error['input']!r:.80}"
    return f"{path or 'config'}: {message[0].lower() + message[1:]}{shown} ({origin})"


def _nearest(name: str, paths: Sequence[str]) -> str | None:
    """The dotted path whose last part is most like `name`."""
    by_name = {path.rpartition(".")[2]: path for path in reversed(paths)}
    near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.6)
    return by_name[near[0]] if near else None


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Dotted paths of the fields of the section at `location`."""
    section: Any = Experiment
    names: list[str] = []
    for part in location:
        if part in SOURCES and names[:2] == ["prepare", "sources"]:
            section = SOURCES[str(part)]
            continue
        names.append(str(part))
        field = section.model_fields.get(part) if section is not None else None
        section = field.annotation if field is not None and _is_section(field.annotation) else None
    return [".".join([*names, field]) for field in section.model_fields] if section is not None else []


def _every_key(section: type[Section], prefix: str = "") -> list[str]:
    """Dotted paths of all fields of a section and of the sections in it, but for those of sources."""
    paths = []
    for name, field in section.model_fields.items():
        paths.append(prefix + name)
        if _is_section(field.annotation):
            paths += _every_key(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
    return paths


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """A nested mapping as dotted names with their values."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
