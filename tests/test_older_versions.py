"""Written folders in other versions of the libraries: the same vectors as here, text by text.

Each pair of versions is installed without its dependencies into a folder of pytest's cache, once, and stands before
the environment's own on the path of a process of its own: torch and the rest are those that are installed. The newest
pair is the one that all other tests run with.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TEXTS, make_bert, make_labse, make_modernbert, make_preset

from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.onnx_export import export_onnx
from hybrid_ir.encoders.portable import save_encoder

pytestmark = pytest.mark.slow

# What the main environment's versions of these would clash with. The rest is shared.
BESIDE = ["huggingface_hub==0.36.2", "requests==2.34.2"]
VERSIONS = {
    # The oldest that read what tokenizers 0.20 and later write of a BPE: the lists of its merges.
    "2.7.0": ["sentence-transformers==2.7.0", "transformers==4.45.2", "tokenizers==0.20.3", "datasets==3.6.0"],
    # The oldest that read a dense layer's weights as safetensors.
    "3.1.1": ["sentence-transformers==3.1.1", "transformers==4.45.2", "tokenizers==0.20.3", "datasets==3.6.0"],
    # The last transformers 4; ModernBERT came in between. With the backend that reads an export.
    "5.1.2": [
        "sentence-transformers==5.1.2",
        "transformers==4.57.6",
        "tokenizers==0.22.1",
        "datasets==4.4.1",
        "optimum==2.1.0",
        "optimum-onnx==0.1.0",
    ],
}
MODELS = {
    "preset": (make_preset, "mean", ("2.7.0", "3.1.1", "5.1.2")),
    "bert": (make_bert, "cls", ("2.7.0", "3.1.1", "5.1.2")),
    "max": (make_bert, "max", ("2.7.0", "3.1.1", "5.1.2")),
    "labse": (make_labse, "cls", ("3.1.1", "5.1.2")),
    "modernbert": (make_modernbert, "mean", ("5.1.2",)),
}
READER = """
import json, sys
import numpy as np
import sentence_transformers, transformers
from sentence_transformers import SentenceTransformer
texts, folders = json.loads(sys.stdin.read())
for folder in folders:
    more = {"backend": "onnx"} if folder.endswith(".onnx") else {}
    model = SentenceTransformer(folder, device="cpu", **more)
    vectors = [model.encode(texts, prompt_name=role) for role in ("query", "document")]
    np.save(f"{folder}/read.npy", np.concatenate(vectors))
print(json.dumps([sentence_transformers.__version__, transformers.__version__]))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """Folders as they are written, each with the vectors of TEXTS, as queries and then as passages, beside it."""
    root, folders = tmp_path_factory.mktemp("written"), {}
    for name, (make, pooling, _) in MODELS.items():
        model = load_encoder(
            str(make(root / "made" / name)), pooling=pooling, query_prefix="query: ", passage_prefix="passage: "
        )
        folders[name] = root / name
        save_encoder(model, folders[name])
        vectors = [encode(model, TEXTS, role=role, precision="fp32") for role in ("query", "document")]
        np.save(root / f"{name}.npy", np.concatenate(vectors))
        if name == "labse":
            export_onnx(model, root / "labse.onnx")
    return folders


def installed(request: pytest.FixtureRequest, version: str) -> Path:
    """The cached folder of these versions, from the package index that `make test` needs in any case."""
    packages = [*VERSIONS[version], *BESIDE]
    name = hashlib.blake2b(" ".join(packages).encode(), digest_size=6).hexdigest()  # another list, another folder
    folder = Path(request.config.cache.mkdir("older_versions")) / f"{version}-{name}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial)]
        done = subprocess.run([*command, *packages], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (
            f"sentence-transformers {version} cannot be installed: {done.stderr.strip()[-200:]}"
        )
        partial.rename(folder)
    return folder


@pytest.mark.parametrize("version", ["2.7.0", pytest.param("3.1.1", marks=pytest.mark.long), "5.1.2"])
def test_older_versions_give_the_same_vectors(written: dict[str, Path], request: pytest.FixtureRequest, version: str):
    """To 1e-5, for texts in six scripts with the model's own prompts, whatever version reads the folder."""
    path = os.pathsep.join([str(installed(request, version)), os.environ.get("PYTHONPATH", "")])
    read = {written[name]: name for name, (_, _, readers) in MODELS.items() if version in readers}
    if version == "5.1.2":
        read[written["labse"].with_suffix(".onnx")] = "labse"
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps([TEXTS, list(map(str, read))]),
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [version, VERSIONS[version][1].split("==")[1]]
    for folder, name in read.items():
        expected = np.load(written[name].with_suffix(".npy"))
        assert np.abs(expected - np.load(folder / "read.npy")).max() < 1e-5, folder
