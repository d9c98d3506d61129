"""The space id: which encoder made a vector. In: an encoder, an index's record of its own. Out: the id, or a refusal.

Vectors of two spaces must never be compared, and nothing else would notice. The id is a hash of everything that moves a
vector: weights, architecture, tokenizer, pooling and the modules after it, prefixes, also those of a language, longest
text, dimension, and the code of a model that has its own. A folder and its copy have one id; a name or a path is no
part of it. A task's prompt is none either: it stands before queries alone, each of which may have another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from hybrid_ir.encoders.derived.dimensions import declared_dimensions
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.foreign_code import carried_code, hash_of
from hybrid_ir.types import InputError

# One text a script or so, as queries and as passages: stored with an index, encoded again at every start.
PROBES = (
    "Where does the Rhine end?",
    "El Ebro nace en Fontibre, en la cordillera Cantábrica.",
    "Москва — столица России.",
    "Ποια είναι η πρωτεύουσα της Ελλάδας;",
    "القاهرة هي عاصمة مصر.",
    "नई दिल्ली किस देश की राजधानी है?",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "东京是日本的首都。",
)
_IN_A_LANGUAGE = ("query-", "document-")
PROBE_TOLERANCE = 0.01
"""Largest difference in a component of two unit vectors of one text that bf16 or another CPU explains."""
# What a config says about where it came from rather than what the model computes.
_IRRELEVANT = {
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "model_type", "vocabulary_before",
}  # fmt: skip


def space_of(model: SentenceTransformer) -> dict[str, Any]:
    """{"id", "dimension", "max_tokens", "prefixes", "parts"}; `parts` are the hashes that make up the id, so that two
    spaces can be told apart by what differs. "shorter" beside them lists the dimensions that the encoder was trained
    for, where it says of any, and "prompts" has those of languages and tasks, by name, where there are any."""
    transformer: Any = model[0]
    config = {k: v for k, v in transformer.config.to_dict().items() if k not in _IRRELEVANT}
    modules = [
        [type(module).__name__, getattr(module, "get_config_dict", dict)() if i else None]
        for i, module in enumerate(model)
    ]
    prefixes = {role: model.prompts.get(role) or "" for role in ("query", "document")}
    parts = {
        "weights": _hash_weights(model),
        "architecture": _hash(config),
        "tokenizer": _hash(_tokenizer_text(model.tokenizer)),
        "pooling": _hash(modules),
        "prefixes": _hash(prefixes),
        "max_tokens": str(model.max_seq_length),
        "dimension": str(model.get_embedding_dimension()),
    }
    prompts = {name: text or "" for name, text in sorted(model.prompts.items()) if name not in prefixes}
    if in_languages := {name: text for name, text in prompts.items() if name.startswith(_IN_A_LANGUAGE)}:
        parts["prefixes in languages"] = _hash(in_languages)
    if code := carried_code(model):
        parts["code"] = hash_of(code)
    shorter = declared_dimensions(model)
    return {
        "id": _hash(parts)[:16],
        "dimension": model.get_embedding_dimension(),
        "max_tokens": model.max_seq_length,
        "prefixes": prefixes,
        "parts": parts,
        **({"shorter": shorter} if shorter else {}),
        **({"prompts": prompts} if prompts else {}),
    }


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Names of the parts in which two spaces differ; empty when they are one."""
    a, b = expected["parts"], found["parts"]
    return ", ".join(name for name in {**a, **b} if a.get(name) != b.get(name))


def probe_vectors(model: SentenceTransformer, precision: str = "auto") -> np.ndarray:
    """(2 * len(PROBES), D) float32: the probes as queries, then as passages."""
    return np.concatenate([encode(model, PROBES, role=role, precision=precision) for role in ("query", "document")])


def check_space(
    index: str, expected: dict[str, Any], probes: Sequence[Sequence[float]], model: SentenceTransformer
) -> None:
    """Raises InputError unless `model` is the encoder that `index` was built with, and still computes what it did."""
    found = space_of(model)
    if found["id"] != expected["id"]:
        raise InputError(
            f"the encoder (space {found['id']}) is not the one that {index} was built with (space {expected['id']}): "
            f"they differ in {difference(expected, found)}; serve the index with its own encoder, {index}/encoder, "
            "or build it again with this one"
        )
    apart = float(np.abs(probe_vectors(model) - np.asarray(probes, dtype=np.float32)).max())
    if not apart <= PROBE_TOLERANCE:  # not: >, which a NaN would pass
        raise InputError(
            f"the encoder gives other vectors for the probe texts of {index} than when it was built (they differ by "
            f"{apart:.3f}): another version of torch or transformers, or a damaged file; build the index again"
        )


def check_prompts(index: str, expected: dict[str, Any], model: SentenceTransformer) -> None:
    """Raises InputError where `model`, of the space of `index`, lacks a prompt of a task that its encoder has, or has
    another: requests name those, and the space id does not tell."""
    own, found = expected.get("prompts", {}), model.prompts
    if changed := sorted(name for name in own if own[name] != (found.get(name) or "")):
        raise InputError(
            f"the encoder has other prompts than {index} was built with: {', '.join(changed)} differ; serve the index "
            f"with its own encoder, {index}/encoder, or build it again with this one"
        )


def _hash_weights(model: SentenceTransformer) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("position_ids"):
            continue  # a buffer of constants, which some versions save and others do not
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tokenizer_text(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python
        return json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.all_special_tokens])
    described = json.loads(backend.to_str())
    # Set by every call that pads or cuts, so they say what was encoded last.
    return json.dumps({k: v for k, v in described.items() if k not in ("padding", "truncation")}, sort_keys=True)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
