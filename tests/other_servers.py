"""What other servers read of a checkpoint folder, as small models of the keys that they take.

text-embeddings-inference 1.9.3 (commit 0d124dc): router/src/lib.rs (ModelConfig, PoolConfig, STConfig, NewSTConfig, and
its use of them) and backends/src/lib.rs (ModuleType). Its first releases wanted four pooling keys; both are checked.
vLLM: vllm/transformers_utils/config.py, get_pooling_config and get_sentence_transformer_tokenizer_config, as they are
at commit 0036026 ("new"), and as they were before vllm-project/vllm#54533 ("old"): they knew the old names alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Served(BaseModel):
    """How a server would pool, and how many tokens of a text it would read."""

    model_config = ConfigDict(frozen=True)
    pooling: str
    max_tokens: int
    normalised: bool
    dense: tuple[str, ...] = ()
    prompts: dict[str, str] = {}


class _Pooling(BaseModel):
    """PoolConfig: all four are wanted by the first releases, and an unknown key is no error."""

    pooling_mode_cls_token: bool
    pooling_mode_mean_tokens: bool
    pooling_mode_max_tokens: bool
    pooling_mode_mean_sqrt_len_tokens: bool
    pooling_mode_lasttoken: bool = False


class _Module(BaseModel):
    """ModuleConfig: one type that is not among these and the dense layers of the folder are left out."""

    idx: int
    name: str
    path: str
    type: Literal[
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Dense",
        "sentence_transformers.models.Normalize",
    ]


class _Length(BaseModel):
    max_seq_length: int


class _Model(BaseModel):
    architectures: list[str]
    model_type: str
    max_position_embeddings: int
    pad_token_id: int = 0


def text_embeddings_inference(folder: Path) -> Served:
    """Raises pydantic's ValidationError, or ValueError, where the server would not start."""
    _Model.model_validate(_json(folder / "config.json"))
    pooling = _Pooling.model_validate(_json(folder / "1_Pooling" / "config.json"))
    chosen = [
        name
        for name, asked in (
            ("cls", pooling.pooling_mode_cls_token),
            ("mean", pooling.pooling_mode_mean_tokens),
            ("last", pooling.pooling_mode_lasttoken),
        )
        if asked
    ]
    if not chosen:
        raise ValueError("Pooling config is not supported")
    modules = [_Module.model_validate(entry) for entry in _json(folder / "modules.json")]
    if not (folder / "tokenizer.json").is_file():
        raise ValueError("tokenizer.json not found")
    return Served(
        pooling=chosen[0],
        max_tokens=_Length.model_validate(_json(folder / "sentence_bert_config.json")).max_seq_length,
        normalised=True,  # of every request that does not ask for the contrary
        dense=tuple(module.path for module in modules if module.type.endswith(".Dense")),
        prompts=_json(folder / "config_sentence_transformers.json")["prompts"],
    )


@dataclass(frozen=True)
class VllmNames:
    pooling: frozenset[str]
    normalize: frozenset[str]
    dense: frozenset[str]
    one_word: bool
    """Whether `pooling_mode` is read as well as the booleans."""


VLLM = {
    "old": VllmNames(
        frozenset({"sentence_transformers.models.Pooling"}),
        frozenset({"sentence_transformers.models.Normalize"}),
        frozenset({"sentence_transformers.models.Dense"}),
        one_word=False,
    ),
    "new": VllmNames(
        frozenset(
            {
                "sentence_transformers.models.Pooling",
                "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            }
        ),
        frozenset(
            {
                "sentence_transformers.models.Normalize",
                "sentence_transformers.base.modules.normalize.Normalize",
                "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
            }
        ),
        frozenset({"sentence_transformers.models.Dense", "sentence_transformers.base.modules.dense.Dense"}),
        one_word=True,
    ),
}


def vllm(folder: Path, version: Literal["old", "new"]) -> Served:
    """`pooling` is "default" where it would take the architecture's own without an error."""
    names, modules = VLLM[version], _json(folder / "modules.json")
    pooling = "default"
    for entry in modules:
        if entry["type"] in names.pooling:
            for key, value in _json(folder / entry["path"] / "config.json").items():
                if key == "pooling_mode" and isinstance(value, str) and names.one_word:
                    said = value
                elif value is True:
                    said = key
                else:
                    continue
                said = said.replace("pooling_mode_", "").split("_", 1)[0]
                said = "last" if "lasttoken" in said else said
                if said in ("cls", "last", "mean"):  # SEQ_POOLING_TYPES
                    pooling = said
    lengths = _json(folder / "sentence_bert_config.json")
    known = {"max_seq_length", "do_lower_case"} <= set(lengths)
    return Served(
        pooling=pooling,
        max_tokens=lengths["max_seq_length"] if known else _json(folder / "config.json")["max_position_embeddings"],
        normalised=any(entry["type"] in names.normalize for entry in modules),
        dense=tuple(entry["path"] for entry in modules if entry["type"] in names.dense),
    )


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
