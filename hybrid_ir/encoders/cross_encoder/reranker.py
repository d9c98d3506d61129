"""Rerankers: cross-encoders that give each pair of a query and a passage a score. In: pairs. Out: float32 scores.

    load_reranker("BAAI/bge-reranker-v2-m3").scores([("Where does the Rhine rise?", "It rises in the Alps.")])

An encoder reads the two texts apart, so that passages are encoded once; a cross-encoder reads them together, which is
better and slower (Nogueira and Cho, arXiv 1901.04085). The models are those that transformers calls "sequence
classification", with one output, as bge-reranker and the cross-encoders of sentence-transformers are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import load_file_path
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hybrid_ir.encoders.loading import few_threads, positions_of, reason_of, source_of, trusted_code
from hybrid_ir.encoders.tokens import CHARACTERS_OF_A_TOKEN, TextReader, beginning_of, micro_batches
from hybrid_ir.encoders.transfer import to_device
from hybrid_ir.types import InputError

HEAD = "ForSequenceClassification"


@dataclass(frozen=True, eq=False)
class Reranker:
    """A cross-encoder with one output. Not thread-safe: its tokenizer is changed by each call."""

    model: Any
    reader: TextReader
    """Its tokenizer, what a text is read as, and the tokens of the longest pair."""
    micro_batch_tokens: int

    @property
    def name(self) -> str:
        """The folder or the name on the hub that it was loaded from."""
        return str(self.model.config.name_or_path)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(len(pairs),) float32: the model's own output for each (query, passage), higher is better.

        No activation is applied: a sigmoid puts them between 0 and 1, and large ones on top of each other. A pair has
        the same score in any company but for float noise, and equal pairs have equal scores. The longer text of a pair
        that is too long is cut first. Of a text of more than 32 characters for each token that the model reads, only
        the beginning, half as long, is looked at.
        """
        return self.scores_and_reading(pairs)[0]

    @torch.inference_mode()
    def scores_and_reading(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each pair the score as `scores` gives it, how many tokens were read (int64), and whether it had more
        (bool)."""
        # Equal pairs are scored once: in two micro-batches they would differ in the last bits, and not tie.
        place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        if not place:
            return np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        read, cut = self._read(list(place))
        lengths = np.array([len(ids) for ids in read["input_ids"]])
        scores = np.empty(len(place), np.float32)
        for batch in micro_batches(lengths, self.micro_batch_tokens, padded=True):
            width = int(lengths[batch].max())
            features = {
                name: to_device(_padded([values[i] for i in batch], width, self._fill(name)), self.model.device)
                for name, values in read.items()
            }
            scores[batch] = self.model(**features).logits[:, 0].float().cpu().numpy()
        each = np.fromiter((place[pair] for pair in pairs), np.int64, len(pairs))
        return scores[each], lengths[each], cut[each]

    def _read(self, pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, list[list[int]]], np.ndarray]:
        """What the model takes of each pair, and whether the pair was longer than it reads."""
        enough = CHARACTERS_OF_A_TOKEN * self.reader.max_tokens
        whole = [[self.reader.plain(text) for text in texts] for texts in zip(*pairs, strict=True)]
        queries, passages = ([beginning_of(text, enough) for text in texts] for texts in whole)
        # As its tokenizer gave them in training; a model that has one type of token takes none.
        typed = "token_type_ids" in self.reader.tokenizer.model_input_names
        types = typed and getattr(self.model.config, "type_vocab_size", 0) > 1
        read = self.reader.tokenizer(
            queries,
            passages,
            truncation="longest_first",
            max_length=self.reader.max_tokens,
            return_token_type_ids=types,
            return_attention_mask=True,
        )
        cut = [
            len(ids) == self.reader.max_tokens if read.encodings is None else bool(read.encodings[i].overflowing)
            for i, ids in enumerate(read["input_ids"])
        ]
        shortened = [
            (len(query), len(passage)) != (len(whole[0][i]), len(whole[1][i]))
            for i, (query, passage) in enumerate(zip(queries, passages, strict=True))
        ]
        names = ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))
        return {name: read[name] for name in names}, np.array(cut) | np.array(shortened)

    def _fill(self, name: str) -> int:
        return self.reader.tokenizer.pad_token_id if name == "input_ids" else 0


def load_reranker(name: str, *, max_tokens: int | None = None, device: str = "cpu") -> Reranker:
    """A cross-encoder with one output: a folder or its URI, or a hub name (OWNER/NAME, or OWNER/NAME@REVISION).

    `max_tokens` is of a pair, and at most what the model has positions for; None = as many as the model reads. Weights
    are read as float32. Code that a model brings is run only where HYBRID_IR_TRUSTED_CODE has its hash. Raises
    InputError where it is no such model, or cannot be loaded without other code.
    """
    few_threads()
    name, revision = source_of(name)
    try:
        source = {"revision": revision, "trust_remote_code": trusted_code(name, revision) is not None}
        config = AutoConfig.from_pretrained(name, **source)
        _refuse(name, _fault_of_config(config) or _fault_of_modules(name, revision))
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, **source
        )
        _refuse(name, _fault_of_weights(found) or _fault_of_tokenizer(tokenizer))
    except InputError:
        raise
    except Exception as error:  # a broken file raises SafetensorError, UnpicklingError, ...: no common class
        raise InputError(
            f"{name!r} is not a reranker that can be loaded: {reason_of(error)}. Give a folder, or the name of a "
            "Hugging Face model (and check the network or HF_HUB_OFFLINE)"
        ) from error
    model.to(device).eval()
    model.config.pad_token_id = tokenizer.pad_token_id  # by which decoders find the last token
    if max_tokens is None:
        # A tokenizer that names no length says 1e30.
        max_tokens = tokenizer.model_max_length if tokenizer.model_max_length < 2**31 else 512
    longest = positions_of(model)
    reader = TextReader(
        tokenizer,
        prefixes={},
        max_tokens=max_tokens if longest is None else min(max_tokens, longest),
        control_tokens=tuple(tokenizer.all_special_tokens),
    )
    reranker = Reranker(model, reader, micro_batch_tokens=4096 if device == "cpu" else 65536)
    if not np.isfinite(reranker.scores([("Where does the Rhine rise?", "It rises in the Alps.")])).all():
        raise InputError(f"{name!r} is not a reranker: its score of a pair is not a number; get its weights again")
    return reranker


def use_threads(count: int) -> None:
    """How many threads torch takes for what this thread computes from now on."""
    torch.set_num_threads(count)


def _refuse(name: str, fault: str | None) -> None:
    if fault is not None:
        raise InputError(f"{name!r} is not a reranker: {fault}")


def _fault_of_config(config: Any) -> str | None:
    """Why the model cannot give a pair a score, and what to do."""
    architectures = config.architectures or []
    if architectures and not any(one.endswith(HEAD) for one in architectures):
        return (
            f"it has no head that scores a pair ({architectures[0]} is not a model for sequence classification); "
            "choose a cross-encoder, as BAAI/bge-reranker-v2-m3 is"
        )
    if config.num_labels != 1:
        return f"it has {config.num_labels} outputs, and a reranker has one; choose a cross-encoder with one label"
    return None


def _fault_of_modules(name: str, revision: str | None) -> str | None:
    """What of a cross-encoder of sentence-transformers would be left out here."""
    file = load_file_path(name, "modules.json", revision=revision)
    modules = json.loads(Path(file).read_text(encoding="utf-8")) if file else []
    if len(modules) > 1 or any(str(module.get("path") or "") for module in modules):
        kinds = ", ".join(str(module.get("type")).rpartition(".")[2] for module in modules)
        return f"it is made of several modules ({kinds:.80}), where its head must be the model's own; choose another"
    file = load_file_path(name, "config_sentence_transformers.json", revision=revision)
    said = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    if prompt := (said.get("prompts") or {}).get(said.get("default_prompt_name")):
        return f"it wants the prompt {prompt!r:.80} before each pair, which is not supported; choose another"
    return None


def _fault_of_weights(found: dict[str, Any]) -> str | None:
    # transformers fills in at random what is missing, and says so in its log alone.
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return (
            f"its weights have no {missing[0]}{more}; choose a cross-encoder that was trained and saved with its head"
        )
    return None


def _fault_of_tokenizer(tokenizer: Any) -> str | None:
    # Without its files transformers makes a tokenizer that knows nothing, and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        return "its tokenizer is missing (no vocabulary was found); add tokenizer.json to the folder"
    if tokenizer.pad_token_id is None:
        return "its tokenizer has no pad token; set pad_token in tokenizer_config.json"
    return None


def _padded(rows: list[list[int]], width: int, fill: int) -> np.ndarray:
    """(len(rows), width) int64, with `fill` behind shorter rows."""
    out = np.full((len(rows), width), fill, np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out
