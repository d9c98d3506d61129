"""What an experiment is: its sections, and what each field does. No input. Out: `Experiment`, all of it by default.

Files, `key=value` words and search spaces address a field by the same dotted path. Field names avoid Ray's own
(`RunConfig`, `ScalingConfig`, `DataConfig`, `CheckpointConfig`, `TuneConfig`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hybrid_ir.config.batch import Batch
from hybrid_ir.config.search import Index, Serve
from hybrid_ir.config.section import Precision, Section, setting
from hybrid_ir.config.sources import AnySource, AtlasSource
from hybrid_ir.languages import is_code

ROLES = ("query", "document")
"""What a text is to an encoder, as sentence-transformers calls it."""


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


class Lora(Section):
    rank: int | None = setting(None, on_resume="keep", ge=1)
    """Train a change of this rank of each weight (LoRA, arXiv 2106.09685), and no weight itself: 16 is usual, at some
    ten times the learning rate. Needs the extra `lora`. Null = train all weights."""
    alpha: float = setting(32.0, on_resume="keep", gt=0)
    """The change is multiplied by alpha / rank."""
    dropout: float = setting(0.0, on_resume="keep", ge=0, lt=1)
    """Share of values dropped before the change; 0 = none. With it texts are padded on a CPU too, which is slower."""
    targets: tuple[str, ...] | None = setting(None, on_resume="keep")
    """Linear layers that are changed, by their names or what these end in ([query, value]); null = all of them."""

    @model_validator(mode="after")
    def _some_targets(self) -> Lora:
        if self.targets == ():
            raise ValueError("targets is empty: name at least one layer, or set it to null for all of them")
        return self


class EncoderSection(Section):
    name: str = setting("tiny", on_resume="keep")
    """A preset made from scratch (tiny, mini), a folder, multilingual-e5-small (from the package index), or a Hugging
    Face name (FacebookAI/xlm-roberta-base), which may name its revision: OWNER/NAME@COMMIT."""
    pooling: Literal["mean", "cls", "max", "lasttoken"] = setting("mean", on_resume="keep")
    """Pooling of a model that brings none of its own; one that does (LaBSE, E5, Qwen3-Embedding) keeps it. A decoder
    wants lasttoken: only its last token has seen the whole text."""
    query_prefix: str | None = setting(None, on_resume="keep")
    """Put before each query; "" = nothing; null = what the model itself asks for, and "Query: " for one that says
    nothing of prefixes."""
    passage_prefix: str | None = setting(None, on_resume="keep")
    """Put before each passage; "" = nothing; null = the model's own, and "Passage: " for one that says nothing."""
    prompts: dict[str, str] = setting({}, on_resume="keep")
    """Further prompts, by the names that sentence-transformers knows them by: query-LANGUAGE and document-LANGUAGE are
    put before queries and passages in that language, in place of the two above; any other name is a task's, which
    `batch.tasks`, `evaluate.task` or a request asks for, and TASK-LANGUAGE a task's in a language. They stand beside
    those that the model has. Empty = the model's own alone."""
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
    lora: Lora = Lora()
    """Train a low-rank change of the encoder in place of its weights."""

    @field_validator("prompts")
    @classmethod
    def _named_prompts(cls, prompts: dict[str, str]) -> dict[str, str]:
        for name in prompts:
            role, dash, language = name.partition("-")
            if role == "passage":
                said = f"names {name!r}: sentence-transformers calls passages documents, so name it"
                raise ValueError(f"{said} document{dash}{language}")
            if name in ("", *ROLES):
                raise ValueError(f"names {name!r}: set query_prefix or passage_prefix for what has no language")
            if role in ROLES and not is_code(language):
                raise ValueError(f"names {name!r}, and {language!r} is no code of a language, as de or zh is")
        return prompts


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
    teacher: Literal["kl", "margin_mse", "mse"] | None = setting(None, on_resume="keep")
    """How a teacher is learned from, of a store that `hybrid-ir teach` wrote. kl: how it weighs the candidates;
    margin_mse: by how much the passage beats the row's hard negatives; mse: its vectors. Null = no teacher."""
    teacher_weight: float = setting(0.5, on_resume="keep", gt=0, le=1)
    """Share of the teacher's loss; the rest is InfoNCE's. 1 = the teacher's alone."""
    teacher_temperature: float | None = setting(None, on_resume="keep", gt=0)
    """The teacher's scores are divided by this. Null = `temperature` for an encoder's cosines, 1 for a reranker's."""
    alignment: float = setting(0.0, on_resume="keep", ge=0)
    """Weight of how differently a row's question and the same question in another language rank the batch, beside all
    else. It costs one more text a row; 0 = none."""

    @model_validator(mode="after")
    def _negatives_to_beat(self) -> Loss:
        if self.teacher == "margin_mse" and self.negatives == "in_batch":
            raise ValueError(
                "teacher=margin_mse is about hard negatives, and negatives=in_batch has none: set "
                "negatives=in_batch_and_hard or triplet"
            )
        return self

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
    """Tokens a forward pass holds, with padding; on a CPU long texts' count more. Null = 4096 there, 32768 on a GPU."""
    compile: bool = setting(False, on_resume="free")
    """torch.compile the encoder (for GPUs; the first steps are slow); false = run it as it is."""
    flash_attention: bool | None = setting(None, on_resume="free")
    """On a GPU, read texts end to end and without padding, through FlashAttention (arXiv 2307.08691): for bf16 and
    encoders of BERT's kin. Null = where that can be; true = refuse to train without. A CPU never pads them."""
    gradient_checkpointing: bool = setting(False, on_resume="free")
    """Compute each layer once more on the way back in place of keeping what it computed: less memory, for a second
    forward pass. `loss.cached` costs the same and bounds a batch's memory; this is for long texts and deep encoders."""
    gradient_exchange: Literal["fp32", "bf16"] = setting("fp32", on_resume="keep")
    """What ranks add their gradients up in. bf16: half of the traffic between nodes, and sums of 8 bits."""
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
            raise ValueError("compile and flash_attention=true exclude each other: set one of them to false")
        return self


class Evaluate(Section):
    task: str | None = setting(None, on_resume="keep")
    """Read queries behind the encoder's prompt of this name (`encoder.prompts`); null = behind that for queries."""
    precision: Precision = setting("auto", on_resume="free")
    """Of encoding; as train.precision."""
    token_budget: int | None = setting(None, on_resume="free", ge=64)
    """Padded tokens of one encoding batch; null = 4096 on a CPU, 65536 on a GPU."""
    bootstrap_rounds: int = setting(1000, on_resume="free", ge=0)
    """Resamples behind the 95 % intervals; 0 = no intervals."""


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
