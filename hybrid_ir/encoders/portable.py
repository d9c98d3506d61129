"""Writing an encoder. In: a SentenceTransformer. Out: a folder that every reader of the format opens rightly.

sentence-transformers 5.4 renamed classes and keys in these files. Other readers did not follow:
text-embeddings-inference refuses the new names, and many versions of vLLM miss them and pool in another way, without a
word. So the names that all of them know are written:

modules.json                sentence_transformers.models.Pooling, and not the module that the class moved to
1_Pooling/config.json       word_embedding_dimension, and the pooling_mode_* booleans beside pooling_mode
2_Dense/config.json         the four keys that every version has
sentence_bert_config.json   max_seq_length and do_lower_case
config.json                 the angles of rotary positions under transformers 4's names too, and no pad_token_id of null
tokenizer_config.json       PreTrainedTokenizerFast, and not transformers 5's TokenizersBackend

Old versions refuse a key that they do not know. So a new key is written only where its value is not the default: the
new versions read the same model, whose space id stays.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from hybrid_ir.encoders.derived.lora import ADAPTER, has_lora, merged, save_adapter
from hybrid_ir.encoders.foreign_code import carried_code
from hybrid_ir.storage import replace_folder, written
from hybrid_ir.types import InputError

_KINDS = (Transformer, Pooling, Dense, Normalize)
_OLD_NAMES: dict[type, str] = {kind: f"sentence_transformers.models.{kind.__name__}" for kind in _KINDS}
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# What the new versions take where sentence_bert_config.json says nothing.
_TRANSFORMER_DEFAULTS = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def save_encoder(model: SentenceTransformer, folder: str | Path) -> None:
    """Write the model to `folder`, which need not exist. It holds no card: whoever has the measures writes one.

    A model with LoRA's adapter is written with that folded in, and beside it the adapter, in `adapter/`.
    """
    folder = Path(folder)
    if has_lora(model):
        with merged(model):
            _save(model, folder)
        save_adapter(model, folder / ADAPTER)
    else:
        _save(model, folder)


def _save(model: SentenceTransformer, folder: Path) -> None:
    if (backend := getattr(model.tokenizer, "backend_tokenizer", None)) is not None:
        # Left by the last call that padded or cut; a reader of tokenizer.json alone would go on padding and cutting.
        backend.no_padding()
        backend.no_truncation()
    model.save_pretrained(str(folder), create_model_card=False)
    modules = _read(folder / "modules.json")
    for entry, module in zip(modules, model, strict=True):
        entry["type"] = _OLD_NAMES.get(type(module), entry["type"])
        place = folder / entry["path"]
        if isinstance(module, Transformer):
            _write(place / "sentence_bert_config.json", _transformer_config(module))
        elif isinstance(module, Pooling):
            _write(place / "config.json", _pooling_config(module))
        elif isinstance(module, Dense):
            _write(place / "config.json", _dense_config(module))
    _write(folder / "modules.json", modules)
    config = _with_old_rotation(_read(folder / "config.json"))
    # A decoder's own default, which text-embeddings-inference takes for no number, and refuses.
    if config.get("pad_token_id", 0) is None and getattr(type(model[0].config), "pad_token_id", 0) is None:
        del config["pad_token_id"]
    _write(folder / "config.json", dict(sorted(config.items())))
    rename_tokenizer(model.tokenizer, folder)
    if code := carried_code(model):
        for path in folder.rglob("*.py"):  # of those that are imported transformers writes copies, in one folder
            path.unlink()
        for path, content in code.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


def write_encoder(model: SentenceTransformer, out: str, said: str) -> None:
    """Write the model to a folder or URI where nothing is, in one step, with a card that says `said` of it.

    Raises InputError where something is, or nothing can be written.
    """
    with written(out) as folder:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{out} exists; choose another --out")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".encoder-", dir=folder.parent))
        except OSError as error:
            raise InputError(f"cannot write the encoder to {out}: {error.strerror}; choose another --out") from error
        try:
            save_encoder(model, partial)
            header = "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n"
            card = f"{header}# {folder.name}\n\n{textwrap.fill(said, 118, break_on_hyphens=False)}\n"
            (partial / "README.md").write_text(card, encoding="utf-8")
            partial.chmod(0o755)
            replace_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def rename_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Rewrite the tokenizer_config.json of a saved tokenizer in names that transformers 4 and 5 both know.

    A tokenizer of a class that both have (BertTokenizer, XLMRobertaTokenizer, ...) keeps its class.
    """
    file = Path(folder) / "tokenizer_config.json"
    config = _read(file)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 4 wants a mapping under this name
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    # Transformers 4 adds token_type_ids where nothing is said, and ModernBERT takes none.
    config.setdefault("model_input_names", list(tokenizer.model_input_names))
    _write(file, dict(sorted(config.items())))


def _with_old_rotation(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions under transformers 4's names too: without them it takes the default angles, and says nothing."""
    rotation = config.get("rope_parameters") or {}
    if "rope_theta" in rotation:
        return {**config, "rope_theta": rotation["rope_theta"]}
    names = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}  # ModernBERT's
    return {**config, **{old: rotation[kind]["rope_theta"] for kind, old in names.items() if kind in rotation}}


def _transformer_config(module: Transformer) -> dict[str, Any]:
    own = module.get_config_dict()
    known = {"max_seq_length": module.max_seq_length, "do_lower_case": module.do_lower_case}
    return known | {key: value for key, value in own.items() if _TRANSFORMER_DEFAULTS.get(key) != value}


def _pooling_config(module: Pooling) -> dict[str, Any]:
    several = module.pooling_mode if isinstance(module.pooling_mode, tuple) else (module.pooling_mode,)
    config: dict[str, Any] = {"word_embedding_dimension": module.embedding_dimension}
    config |= {key: mode in several for mode, key in _POOLING_KEYS.items()}
    if len(several) == 1:  # old versions take no list here, and the booleans say it all
        config["pooling_mode"] = several[0]
    if not module.include_prompt:
        config["include_prompt"] = False
    return config


def _dense_config(module: Dense) -> dict[str, Any]:
    config = module.get_config_dict()
    if module.module_input_name == module.module_output_name == "sentence_embedding":
        del config["module_input_name"], config["module_output_name"]
    return config


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
