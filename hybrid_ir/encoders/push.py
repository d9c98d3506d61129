"""Publishing an encoder. In: a checkpoint folder. Out: a repository of the Hugging Face Hub that holds the same files.

What is sent are the encoder's own files, which `files_to_push` names, and the model card. Code of a model's own
is among them, where it was trusted. Nothing else that lies in the folder is sent, and no pickle. What the repository
held before and the folder does not is removed in the same commit: a file of other weights could be what a reader takes.
The repository's history keeps it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hybrid_ir.encoders.foreign_code import carried_code
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.types import InputError, one_line

_SENT = ("*.json", "*.safetensors", "vocab.txt", "merges.txt", "*.model")
CARD = "README.md"


def files_to_push(folder: str | Path) -> list[str]:
    """What would be sent, as paths in the folder, sorted. Reads the encoder, and writes and sends nothing.

    Raises InputError where the folder is no sentence-transformers folder, a module's folder or the card is missing, or
    the encoder cannot be loaded.
    """
    folder = Path(folder)
    if not (folder / "modules.json").is_file():
        raise InputError(
            f"{folder} is not a checkpoint: it has no modules.json; give the folder that a training leaves "
            "(RUN/checkpoint)"
        )
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} has no model card ({CARD}); a finished training writes one, or write one yourself")
    code = carried_code(load_encoder(str(folder)))
    places = [folder / entry["path"] for entry in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    found = {file for place in places for pattern in _SENT for file in place.glob(pattern) if file.is_file()}
    found.update(folder / path for path in code)
    return sorted(str(file.relative_to(folder)) for file in {*found, folder / CARD})


def push_encoder(folder: str | Path, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Send the checkpoint to OWNER/NAME, to the branch `revision` or to main; the commit's URL.

    The repository and the branch are made where they are not there. The card's PATH becomes the repository's name. The
    token is the one of `hf auth login`, or HF_TOKEN. Raises InputError for an incomplete folder, without a token, for a
    public repository where `private` is asked for, and where the hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  (of whichever httpx the library has)
    )

    files = files_to_push(folder)
    if get_token() is None:
        raise InputError("there is no token of the Hugging Face Hub; run: hf auth login, or set HF_TOKEN")
    api: Any = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise InputError(
                f"{repository} exists already and is public, and --private was asked for; make it private on the hub, "
                "or choose another name"
            )
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="hybrid-ir-") as scratch:
            for name in files:
                place = Path(scratch) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to((Path(folder) / name).resolve())
            card = Path(scratch) / CARD
            text = card.read_text(encoding="utf-8").replace(
                'SentenceTransformer("PATH"', f'SentenceTransformer("{repository}"'
            )
            card.unlink()
            card.write_text(text, encoding="utf-8")
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=scratch,
                revision=revision,
                commit_message="Publish the encoder",
                delete_patterns="*",
            )
    except (HTTPError, HFValidationError, OSError) as error:
        raise InputError(f"{repository} cannot be written to on the hub: {one_line(error)}") from error
    return commit.commit_url
