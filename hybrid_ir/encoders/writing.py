"""Writing an encoder that was made of another one. In: a model, words about it. Out: a folder with a card."""

from __future__ import annotations

import shutil
import tempfile
import textwrap
from pathlib import Path

from sentence_transformers import SentenceTransformer


def write_encoder(model: SentenceTransformer, out: str, said: str) -> None:
    """Write the model to a folder that must not exist, in one step, with a card that says `said` of it."""
    parent = Path(out).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".encoder-", dir=parent))
    try:
        model.save(str(partial), create_model_card=False)
        header = "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n"
        card = f"{header}# {Path(out).name}\n\n{textwrap.fill(said, 118, break_on_hyphens=False)}\n"
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
