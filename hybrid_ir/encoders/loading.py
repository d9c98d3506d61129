"""Loading an encoder. In: a folder, a URI or a name. Out: a `SentenceTransformer`, or what is wrong.

Its modules are a transformer, pooling, perhaps a dense layer, and normalising. So hub models keep their own pooling,
and a checkpoint loads in everything that reads that format.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants, model_info, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import is_sentence_transformer_model, load_file_path
from torch import nn

from hybrid_ir.encoders.foreign_code import TRUSTED, carry_code, code_of_its_own, hash_of, own_code
from hybrid_ir.encoders.presets import PRESETS
from hybrid_ir.encoders.restored import RESTORED, restored_encoder
from hybrid_ir.machine import usable_cpus
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError, one_line

PAPER_PREFIXES = {"query": "Query: ", "document": "Passage: "}
"""What arXiv 2408.10536 puts before its texts, for the training of a model that brings no prefixes of its own."""

HUB_S = 5
"""Seconds that the hub may take to say whether it knows a model."""

# Families that say what they want before a text in their cards, and in no file that loads with the model. E5:
# https://huggingface.co/intfloat/multilingual-e5-small, "Each input text should start with", and arXiv 2402.05672.
_IN_THE_CARD = {
    r"intfloat/(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?": {"query": "query: ", "document": "passage: "}
}


def load_encoder(
    name: str,
    *,
    pooling: Literal["mean", "cls", "max", "lasttoken"] = "mean",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    prompts: Mapping[str, str] | None = None,
    without_prefixes: Mapping[str, str] | None = None,
    max_tokens: int | None = None,
    dropout: float | None = None,
    device: str = "cpu",
) -> SentenceTransformer:
    """An encoder as a SentenceTransformer of unit vectors: a folder or its URI, a name of `RESTORED`, or a hub name
    (OWNER/NAME, or OWNER/NAME@REVISION).

    `pooling` serves models that bring none. Prefixes, length and dropout are the model's own where None is given;
    `without_prefixes`, by role, are those of a model that says nothing of prefixes. `prompts` are further ones, by
    name: of a role in a language, as query-de, and of tasks. They stand beside the model's own, or in the place of
    those of their name. The length is at most what the
    model has positions for. Code that a model brings is run only where HYBRID_IR_TRUSTED_CODE has its hash. Raises
    InputError when `name` is not a model that can be loaded without other code.
    """
    few_threads()
    name, revision = source_of(restored_encoder(name) if name in RESTORED and not Path(name).exists() else name)
    try:
        code = trusted_code(name, revision)
        trusted = code is not None
        if is_sentence_transformer_model(name, revision=revision):
            model = SentenceTransformer(name, device=device, revision=revision, trust_remote_code=trusted)
        else:
            # Said, because transformers would ask at the terminal where nothing is said, and run the code at a "y".
            source = {"revision": revision, "trust_remote_code": trusted}
            transformer = Transformer(name, model_kwargs=source, processor_kwargs=source, config_kwargs=source)
            modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
            model = SentenceTransformer(modules=modules, device=device)
    except InputError:
        raise
    except Exception as error:  # a broken file raises SafetensorError, UnpicklingError, ...: no common class
        raise InputError(
            f"{name!r} is not a model that can be loaded: {reason_of(error)}. Give a preset "
            f"({', '.join(PRESETS)}), {' or '.join(RESTORED)}, a folder, or the name of a Hugging Face model (and "
            "check the network or HF_HUB_OFFLINE)"
        ) from error
    fault = _fault(model)
    if fault:
        raise InputError(f"{name!r} cannot be used: {fault}")
    if code is not None:
        carry_code(model, code)
    model.float()  # some are stored in half precision, which AdamW's small steps would not change
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    asked = {"query": query_prefix, "document": passage_prefix}
    own = _own_prefixes(model, name, revision) or without_prefixes or {}
    model.prompts |= {role: own.get(role, "") if given is None else given for role, given in asked.items()}
    model.prompts |= prompts or {}
    if dropout is not None:
        _set_dropout(model[0], dropout)
    if max_tokens is None:
        own = model.max_seq_length
        # Tokenizers of models with relative positions (T5) name no length: theirs is 1e30.
        max_tokens = own if own is not None and own < 2**31 else 512
    longest = positions_of(model[0])
    model.max_seq_length = max_tokens if longest is None else min(max_tokens, longest)
    return model


def few_threads() -> None:
    """torch takes all CPUs of the machine, and time on them may be limited: more threads than that wait for each
    other."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def source_of(name: str) -> tuple[str, str | None]:
    """The folder of a model, or its name on the hub and the revision (OWNER/NAME@REVISION) if one is asked for.

    A URI is fetched. Raises InputError where there is no such folder, where it is no model's, and where its weights are
    a pickle.
    """
    name, revision = fetch(name), None
    if not Path(name).exists() and "@" in name:
        name, _, revision = name.partition("@")
    if Path(name).exists() and not any((Path(name) / f).is_file() for f in ("modules.json", "config.json")):
        raise InputError(f"{name!r} is not a model: it has neither modules.json nor config.json")
    if not Path(name).exists() and name.startswith(("/", "./", "../", "~")):  # no name on the hub begins so
        raise InputError(f"{name!r} is not a model: there is no such folder")
    if pickled := _pickled(Path(name)):
        raise InputError(
            f"{pickled} is a pickle, which may run anything when it is read, and no safetensors file is beside it; "
            "save the model as safetensors (`save_pretrained` does) and give that folder"
        )
    if not Path(name).exists():
        _check_reachable(name, revision)
    return name, revision


def check_source(name: str) -> None:
    """Raises InputError for what `load_encoder` would refuse by its name, or by what its configs say: in seconds."""
    if name in RESTORED and not Path(name).exists():
        return
    name, revision = source_of(name)
    # What the hub has is looked at when it is loaded: it takes as long.
    if Path(name).exists() and (foreign := code_of_its_own(name, revision)):
        raise InputError(f"{name!r} cannot be used: {foreign}")


def _check_reachable(name: str, revision: str | None) -> None:
    """Raises InputError where a model is not on this machine and no hub answers: the libraries would ask for each of
    its files again and again, for two minutes."""
    there = (try_to_load_from_cache(name, file, revision=revision) for file in ("modules.json", "config.json"))
    try:
        if constants.HF_HUB_OFFLINE or any(isinstance(found, str) for found in there):
            return
        model_info(name, revision=revision, timeout=HUB_S)
    except (HfHubHTTPError, ValueError):
        return  # it answers, or that is no name: who loads the model says what is wrong
    except Exception as error:  # those of the hub's HTTP library, which was another one in each of its versions
        raise InputError(
            f"{name!r} is neither a folder here nor reachable on the hub ({one_line(error)}); check the name and the "
            f"network, or give a folder, a preset ({', '.join(PRESETS)}) or {' or '.join(RESTORED)}"
        ) from error


def trusted_code(name: str, revision: str | None) -> dict[str, bytes] | None:
    """The Python files of a model that names code of its own, if that may run; None where it names none.

    That code is about to run is said on stderr. Raises InputError where it was not trusted.
    """
    if foreign := code_of_its_own(name, revision):
        raise InputError(f"{name!r} cannot be used: {foreign}")
    code = own_code(name)
    if code is not None:
        said = f"running the Python code that came with {name} (SHA-256 {hash_of(code)}), as {TRUSTED} asks"
        print(said, file=sys.stderr, flush=True)
    return code


def reason_of(error: BaseException) -> str:
    """The first line of what a library said, to stand before a full stop."""
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return reason[:200].rstrip(" .")


def _pickled(folder: Path) -> Path | None:
    """Weights of a model in a folder that are a pickle and nothing else. (Where both are, safetensors is read.)"""
    for module in (folder, *sorted(folder.glob("[0-9]*_*"))):
        if not any(module.glob("*.safetensors")):
            found = next(iter(sorted(module.glob("pytorch_model*.bin"))), None)
            if found is not None:
                return found
    return None


def _fault(model: SentenceTransformer) -> str | None:
    """Why a model that could be loaded cannot be trained here, and what to do."""
    if not isinstance(model[0], Transformer) or model.tokenizer is None:
        return (
            f"its first module is a {type(model[0]).__name__}, not a transformer that reads text; choose another model"
        )
    # Without its files transformers makes a tokenizer that knows nothing, and says nothing.
    if len(model.tokenizer) <= len(model.tokenizer.all_special_ids):
        return "its tokenizer is missing (no vocabulary was found); add tokenizer.json to the folder"
    if model.tokenizer.pad_token_id is None:
        return "its tokenizer has no pad token; set pad_token in tokenizer_config.json"
    if any(isinstance(module, Pooling) and not module.include_prompt for module in model):
        return "its pooling leaves the prompt out, which is not supported; set include_prompt in its pooling config"
    return None


def _own_prefixes(model: SentenceTransformer, name: str, revision: str | None) -> dict[str, str] | None:
    """What the model, or its card, says of prefixes, by role; None if they say nothing."""
    file = load_file_path(name, "config_sentence_transformers.json", revision=revision)
    said = json.loads(Path(file).read_text(encoding="utf-8")).get("prompts") if file else None
    if said and any(said.values()):
        # The names that encode_query and encode_document of sentence-transformers look for, in their order.
        names = {"query": ("query",), "document": ("document", "passage", "corpus")}
        rest = model.prompts.get(model.default_prompt_name or "") or ""
        return {role: next((said[x] for x in several if said.get(x)), rest) for role, several in names.items()}
    called = (name, str(getattr(model[0].config, "_name_or_path", "")))
    in_the_card = (own for pattern, own in _IN_THE_CARD.items() if any(re.fullmatch(pattern, x) for x in called))
    # Prompts that are all empty say something too: that it was trained without.
    return next(in_the_card, dict.fromkeys(PAPER_PREFIXES, "") if said else None)


def dropout_of(model: SentenceTransformer) -> float:
    """The largest probability with which a layer drops values in training; 0 = two passes are the same bits."""
    return max((getattr(module, name) for module, name in _dropouts(model)), default=0.0)


def _set_dropout(transformer: Any, probability: float) -> None:
    for module, name in _dropouts(transformer):
        setattr(module, name, probability)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):  # for who trains the saved model further
        if hasattr(transformer.config, name):
            setattr(transformer.config, name, probability)


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules and the attribute that is their probability: newer attentions hold it as a number of their own."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            yield module, "p"
        elif isinstance(getattr(module, "attention_dropout", None), float):
            yield module, "attention_dropout"


def positions_of(transformer: Any) -> int | None:
    """Tokens that the model has positions for; None where they have no end."""
    longest = getattr(transformer.config, "max_position_embeddings", None)
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa's and MPNet's start behind the pad id
    return longest if longest is not None and longest > 0 else None
