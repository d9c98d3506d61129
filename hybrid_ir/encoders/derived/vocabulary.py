"""A vocabulary cut to texts. In: an encoder, texts. Out: the same encoder with the pieces that these texts use.

A multilingual encoder keeps most of its weights in the vectors of its 250 thousand pieces, and a corpus uses some of
them. What stays are the pieces that the texts use, all single characters, and the tokenizer's special tokens. Such
texts are read as before, token by token, and get the same vectors; another text's words may be read as more and smaller
pieces, and no text becomes unreadable that was readable before.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.types import InputError

_TEXTS_AT_A_TIME = 1000
_COMPARED = 2000
_COMPARED_OF_THESE = 100
"""Texts that are read by both tokenizers before the smaller one is believed."""
_MARKS = ("▁", "##", "Ġ", "</w>")
"""What tokenizers put at a piece for the space before it or behind it, or for a word that goes on."""
_SPECIAL_IDS = ("pad", "bos", "eos", "cls", "sep", "mask", "unk", "decoder_start")


@dataclass(frozen=True)
class Trimmed:
    """What a cut has left."""

    kept: int
    """Pieces of the vocabulary."""
    of: int
    """Pieces, and rows of the matrix, before."""
    parameters: int
    """Of the whole encoder, after."""
    parameters_before: int


def trim_vocabulary(model: SentenceTransformer, texts: Iterable[str]) -> Trimmed:
    """Cut the vocabulary of `model`, in place, to what `texts` use, as queries and as passages.

    For tokenizers of the kinds Unigram (XLM-R, E5, BGE-M3), BPE and WordPiece (mBERT, LaBSE). Raises InputError for
    another kind, for no text at all, and where the smaller tokenizer reads a text in another way.
    """
    transformer: Any = model[0]
    tokenizer = model.tokenizer
    described = _describe(tokenizer)
    reader = TextReader.of(model)
    used, sample = _used(reader, texts)
    pieces = _pieces(described["model"])
    embedding = transformer.model.get_input_embeddings()
    before = sum(p.numel() for p in model.parameters())
    keep = sorted(_kept(described, pieces, used, tokenizer))
    new_id = {old: new for new, old in enumerate(keep)}
    smaller = _cut(described, new_id)

    before_cut = _tokens(reader, sample)
    longest = model.max_seq_length
    transformer.processor = _reload(tokenizer, smaller)
    model.max_seq_length = longest
    if differing := [
        text for text, a, b in zip(sample * 2, before_cut, _tokens(TextReader.of(model), sample), strict=True) if a != b
    ]:
        transformer.processor = tokenizer
        raise InputError(
            f"the vocabulary cannot be cut: the smaller tokenizer reads {differing[0][:60]!r} in another way; this "
            f"kind of tokenizer ({described['model']['type']}) does more than is known here, so use the encoder whole"
        )
    table = torch.nn.Embedding(len(keep), embedding.embedding_dim, padding_idx=new_id.get(embedding.padding_idx))
    table = table.to(embedding.weight.device, embedding.weight.dtype)
    table.weight.data.copy_(embedding.weight.data[torch.tensor(keep, device=embedding.weight.device)])
    transformer.model.set_input_embeddings(table)
    transformer.config.vocab_size = len(keep)
    transformer.config.vocabulary_before = getattr(transformer.config, "vocabulary_before", embedding.num_embeddings)
    for name in (f"{each}_token_id" for each in _SPECIAL_IDS):
        old = getattr(transformer.config, name, None)
        if isinstance(old, int):
            setattr(transformer.config, name, new_id.get(old))
    return Trimmed(len(keep), embedding.num_embeddings, sum(p.numel() for p in model.parameters()), before)


def _describe(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described: dict[str, Any] = {"model": {"type": "one without a file"}}
    if backend is not None:
        described = json.loads(backend.to_str())
    kind = described["model"].get("type")
    if kind not in ("Unigram", "BPE", "WordPiece"):
        raise InputError(
            f"the vocabulary of this encoder cannot be cut: its tokenizer is of the kind {kind}, not Unigram, BPE or "
            "WordPiece; use the encoder whole"
        )
    described["padding"] = described["truncation"] = None  # set by whoever encoded last
    return described


def _used(reader: TextReader, texts: Iterable[str]) -> tuple[set[int], list[str]]:
    """Ids of all texts in every role, to their ends, and some of the texts."""
    to_the_end = TextReader(reader.tokenizer, reader.prefixes, 10**6, reader.control_tokens)
    used: set[int] = set()
    sample: list[str] = []
    remaining = iter(texts)
    while some := list(islice(remaining, _TEXTS_AT_A_TIME)):
        for role in reader.prefixes:
            used.update(np.unique(to_the_end.read(some, role).flat).tolist())
        sample += some[: min(_COMPARED_OF_THESE, _COMPARED - len(sample))]
    if not sample:
        raise InputError("there is no text to cut the vocabulary to; give a store, or files of texts")
    return used, sample


def _tokens(reader: TextReader, texts: Sequence[str]) -> list[list[str]]:
    """The tokens of each text in each role, one role after the other."""
    read = [reader.read(texts, role) for role in reader.prefixes]
    return [
        reader.tokenizer.convert_ids_to_tokens(row.tolist())
        for tokens in read
        for row in np.split(tokens.flat, tokens.offsets[1:-1])
    ]


def _pieces(described: dict[str, Any]) -> dict[str, int]:
    vocabulary = described["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: n for n, (piece, _) in enumerate(vocabulary)}


def _kept(described: dict[str, Any], pieces: dict[str, int], used: set[int], tokenizer: Any) -> set[int]:
    kept = used | {each["id"] for each in described["added_tokens"]} | set(tokenizer.all_special_ids)
    for piece, n in pieces.items():
        bare = piece
        for mark in _MARKS:
            bare = bare.removeprefix(mark).removesuffix(mark)
        if len(bare) <= 1 or (bare.startswith("<0x") and len(bare) == 6):  # a byte, where characters fall back to them
            kept.add(n)
    if (unknown := described["model"].get("unk_token")) in pieces:
        kept.add(pieces[unknown])
    if isinstance(described["model"].get("unk_id"), int):
        kept.add(described["model"]["unk_id"])
    # XLM-R's positions are counted from the pad id, which must stay the number that it is.
    if tokenizer.pad_token_id < 1000:
        kept.update(range(tokenizer.pad_token_id + 1))
    if described["model"]["type"] == "BPE":
        _close_merges(described["model"], pieces, kept)
    return kept


def _close_merges(described: dict[str, Any], pieces: dict[str, int], kept: set[int]) -> None:
    """Add what kept pieces are merged from. Then each merge that a text went through is there, and no other matters:
    BPE takes the first that applies, and one that never applied to a text cannot be missed by it."""
    parts: dict[str, list[tuple[str, str]]] = {}
    continuing = described.get("continuing_subword_prefix") or ""
    for left, right in map(_pair, described["merges"]):
        parts.setdefault(left + right.removeprefix(continuing), []).append((left, right))
    names = {n: piece for piece, n in pieces.items()}
    waiting = [names[n] for n in kept if n in names]
    while waiting:
        for pair in parts.get(waiting.pop(), ()):
            for part in pair:
                if part in pieces and pieces[part] not in kept:
                    kept.add(pieces[part])
                    waiting.append(part)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """Files have merges as "a b" or as ["a", "b"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _cut(described: dict[str, Any], new_id: dict[int, int]) -> dict[str, Any]:
    """The description of a tokenizer with the kept pieces alone, under their new ids."""
    model = dict(described["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: new_id[n] for piece, n in model["vocab"].items() if n in new_id}
    else:
        model["vocab"] = [entry for n, entry in enumerate(model["vocab"]) if n in new_id]
    if isinstance(model.get("unk_id"), int):
        model["unk_id"] = new_id[model["unk_id"]]
    if model["type"] == "BPE":
        continuing, pieces = model.get("continuing_subword_prefix") or "", set(model["vocab"])
        model["merges"] = [
            merge
            for merge in model["merges"]
            for left, right in [_pair(merge)]
            if {left, right, left + right.removeprefix(continuing)} <= pieces
        ]
    added = [{**each, "id": new_id[each["id"]]} for each in described["added_tokens"]]
    post = _renumbered(described["post_processor"], new_id)
    return {**described, "model": model, "added_tokens": added, "post_processor": post}


def _renumbered(processor: Any, new_id: dict[int, int]) -> Any:
    """A post-processor with new ids: a template's `ids`, and the (token, id) of BERT's and RoBERTa's own."""
    if isinstance(processor, list):
        return [_renumbered(each, new_id) for each in processor]
    if not isinstance(processor, dict):
        return processor
    made = {key: _renumbered(value, new_id) for key, value in processor.items()}
    if isinstance(processor.get("ids"), list):
        made["ids"] = [new_id[n] for n in processor["ids"]]
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            made[key] = [processor[key][0], new_id[processor[key][1]]]
    return made


def _reload(tokenizer: Any, described: dict[str, Any]) -> Any:
    """The tokenizer with another description, of the class that takes it as it stands in the file.

    Classes of their own (XLMRobertaTokenizer) may build parts of it anew from a vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory(prefix="hybrid-ir-") as folder:
        tokenizer.save_pretrained(folder)
        settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = ("bos", "eos", "sep", "cls", "unk", "pad", "mask")
    special = {f"{n}_token": str(t) for n in named if (t := getattr(tokenizer, f"{n}_token", None)) is not None}
    taken = ("model_max_length", "model_input_names", "padding_side", "truncation_side", "clean_up_tokenization_spaces")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        **special,
        **{key: settings[key] for key in taken if key in settings},
    )
