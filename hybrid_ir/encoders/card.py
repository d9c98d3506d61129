"""The model card. In: a training's settings, store, ledger and measures. Out: the README.md of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def model_card(
    *,
    name: str,
    base: str,
    languages: list[str],
    store: Mapping[str, Any],
    ledger: Mapping[str, Any],
    settings: Mapping[str, Any],
    encoder: Mapping[str, Any],
    metrics: Mapping[str, Any],
    dimension: int,
) -> str:
    """Data, languages, mix asked and realised, settings, measures, and how to load it, below the hub's YAML header."""
    header = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "language": languages,
        "tags": ["sentence-transformers", "feature-extraction", "multilingual", "hybrid-batch-training"],
    }
    # A hub name, whose page the card links to, and not a folder.
    if not Path(base).exists():
        base = base.partition("@")[0]
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base) and not Path(base).exists():
        header["base_model"] = base
    sources = "\n".join(
        f"| {source} | {counts['groups']:,} | {counts.get('train', 0):,} | {sum(counts['rejected'].values()):,} |"
        for source, counts in store["sources"].items()
    )
    mix = "\n".join(
        f"| {kind} | {row['asked']:.4f} | {row['realised']:.4f} | {row['batches']:,} |"
        for kind, row in ledger["kinds"].items()
    )
    measures = metrics.get("validation") or {}
    table = "\n".join(f"| {key} | {value:.4f} |" for key, value in measures.items()) or "| none | no validation split |"
    train, loss = settings["train"], settings["loss"]
    query, passage = encoder["query_prefix"], encoder["passage_prefix"]
    named = ""
    if prompts := sorted(encoder.get("prompts") or {}):
        named = f"\nOther prompts, by `model.encode(texts, prompt_name=...)`: {', '.join(f'`{x}`' for x in prompts)}.\n"
    trust = ", trust_remote_code=True" if encoder.get("code") else ""
    cut = ""
    if before := encoder.get("vocabulary_before"):
        cut = (
            f"\nThe vocabulary is cut from {before:,} to {encoder['vocabulary']:,} pieces: those that the store's "
            "texts use,\nand all single characters. A word of other pieces is read as more and smaller ones.\n"
        )
    rank, alpha = settings["encoder"]["lora"]["rank"], settings["encoder"]["lora"]["alpha"]
    lora = f" Trained by LoRA of rank {rank} and alpha {alpha:g}; `adapter/` has that alone, for PEFT." if rank else ""
    taught = ""
    if kind := loss.get("teacher"):
        share = loss["teacher_weight"]
        taught = f" A teacher, `{store['taught']['name']}`, has {share:g} of the loss (`loss.teacher={kind}`)."
    revision = f" (revision {encoder['revision']})" if encoder["revision"] else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---
# {name}

A multilingual dense retrieval encoder ({dimension} dimensions, cosine similarity), trained from `{base}`{revision} by
hybrid batch training (arXiv 2408.10536): each batch is monolingual, cross-lingual or multilingual.
{cut}
## How to load it

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH"{trust})
queries = model.encode_query(["..."])       # prefix {query!r}
passages = model.encode_document(["..."])   # prefix {passage!r}
scores = queries @ passages.T               # vectors are unit length
```
{named}
## Data

Languages: {", ".join(languages)}. Store `{store["content_hash"]}`.

| source | groups | trained on | rejected |
|---|---|---|---|
{sources}

## Mix

| batches | asked | realised | count |
|---|---|---|---|
{mix}

Every language pair's share is in the run's `ledger.json`.

## Training

{metrics["steps"]:,} steps of {settings["batch"]["size"]} groups (weights of step {metrics["best_step"]:,}), \
learning rate \
{train["learning_rate"]:g}, {train["warmup_steps"]} warm-up steps, weight decay {train["weight_decay"]:g}, \
InfoNCE at temperature {loss["temperature"]:g} with {loss["negatives"]} negatives, seed {settings["seed"]}, \
texts cut to {encoder["max_tokens"]} tokens.{lora}{taught}

## Measures on the store's validation split

| measure | value |
|---|---|
{table}
"""
