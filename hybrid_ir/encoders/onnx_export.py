"""ONNX files of encoders. In: a SentenceTransformer, or an exported folder. Out: the folder, or its encoder again.

The folder is a sentence-transformers folder with `onnx/model.onnx` in place of the transformer's weights. The graph
takes `input_ids` and `attention_mask`, both (texts, tokens) int64, and has two outputs: `last_hidden_state`, which
sentence-transformers' and text-embeddings-inference's ONNX backends pool themselves, and `sentence_embedding`, the unit
vectors. ONNX Runtime computes only the output that is asked for.

The exporter is torch's newer one, by torch.export. Its older one, by tracing, wrote graphs of BERT that gave other
vectors without an error. optimum-onnx wants transformers 4.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn

from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.types import InputError

OPSET = 18
"""Version of ONNX's operators; ONNX Runtime reads it since 1.14 (2023)."""
_FILE_LIMIT = 1_900_000_000  # bytes; a protobuf holds 2 GiB, and weights beyond that lie beside it


def export_onnx(model: SentenceTransformer, folder: str | Path, *, int8: bool = False) -> None:
    """Write the model to `folder`, which must not exist, with the graph in fp32, or with weights in 8 bits.

    `int8` is ONNX Runtime's dynamic quantisation: weights of matrix products and embeddings in 8 bits, a scale a
    channel; activations are scaled text by text. Weights use 7 of the 8 bits: on CPUs without VNNI the sums of 8 by 8
    bits would overflow unseen. Raises InputError where the extra `export` is not installed.
    """
    check_onnx()
    folder = Path(folder)
    save_encoder(model, folder)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    place = folder / "onnx"
    place.mkdir()
    whole = place / ("whole.onnx" if int8 else "model.onnx")
    beside = sum(p.numel() * p.element_size() for p in model.parameters()) > _FILE_LIMIT
    with _quiet():
        _export(model, whole, beside)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                whole,
                place / "model.onnx",
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                use_external_data_format=beside,
            )
            for file in place.glob("whole.onnx*"):
                file.unlink()


def load_onnx(folder: str | Path) -> SentenceTransformer:
    """The encoder of an exported folder, run by ONNX Runtime on the CPU, for `encode`. It cannot be trained.

    Raises InputError where `folder` is no export, or the extra `export` is not installed.
    """
    check_onnx()
    file = Path(folder) / "onnx" / "model.onnx"
    if not file.is_file():
        raise InputError(f"{folder} is not an exported encoder: it has no onnx/model.onnx")
    said = json.loads((Path(folder) / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    return SentenceTransformer(modules=[_Session(Path(folder))], device="cpu", prompts=said["prompts"])


def describe_onnx(folder: str | Path) -> dict[str, Any]:
    """Which graph an exported folder has: its operators, whether its weights are in 8 bits, and its bytes."""
    import onnx
    import onnxruntime

    place = Path(folder) / "onnx"
    graph = onnx.load(place / "model.onnx", load_external_data=False)
    return {
        "opset": next(each.version for each in graph.opset_import if each.domain in ("", "ai.onnx")),
        "int8": any(node.op_type == "DynamicQuantizeLinear" for node in graph.graph.node),
        "onnxruntime": onnxruntime.__version__,
        "bytes": sum(file.stat().st_size for file in place.iterdir()),
    }


class _Session(InputModule):
    """A graph as the only module of a SentenceTransformer: ids in, unit vectors out."""

    save_in_root = True

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        super().__init__()
        self._folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        length = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        self.max_seq_length = length
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            str(folder / "onnx" / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def get_embedding_dimension(self) -> int:
        return next(output.shape[1] for output in self._session.get_outputs() if output.name == "sentence_embedding")

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
        features["sentence_embedding"] = torch.from_numpy(self._session.run(["sentence_embedding"], inputs)[0])
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        shutil.copytree(self._folder, output_path, dirs_exist_ok=True)


class _Graph(nn.Module):
    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        features = self.model[0](features)
        tokens = features["token_embeddings"]  # before a later module, which may put others in its place
        for module in list(self.model)[1:]:
            features = module(features)
        return tokens, features["sentence_embedding"]


def _export(model: SentenceTransformer, file: Path, beside: bool) -> None:
    was_training = model.training
    graph = _Graph(model).eval()
    # Two texts of seven tokens: a size of 1 would be taken for a constant.
    ids = torch.full((2, 7), model.tokenizer.pad_token_id, dtype=torch.int64, device=model.device)
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens", max=model.max_seq_length)
    try:
        with torch.no_grad():
            torch.onnx.export(
                graph,
                (ids, torch.ones_like(ids)),
                file,
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state", "sentence_embedding"],
                dynamic_shapes={name: {0: texts, 1: tokens} for name in ("input_ids", "attention_mask")},
                opset_version=OPSET,
                dynamo=True,
                external_data=beside,
                verbose=False,
            )
    finally:
        model.train(was_training)


def check_onnx() -> None:
    """Raises InputError where what an export needs is not installed."""
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"an export needs the package {error.name}, which is not installed; run: pip install 'hybrid-ir[export]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter and the quantiser say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
