"""What must start in a second does: it loads neither torch nor, where it need not, Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENCODING = ("torch", "transformers", "sentence_transformers")
HEAVY = (*ENCODING, "ray", "pydantic", "pyarrow", "numpy")


def loaded(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of the packages a process of its own has loaded after the statement."""
    program = f"import sys; {statement}; print(*[name for name in {names!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import hybrid_ir.serving.ray_serve.control",  # who starts, swaps and stops a service
        "import hybrid_ir.serving.ray_serve.deployments",
        "import hybrid_ir.serving.ray_serve.gateway",  # of shards elsewhere
        "import hybrid_ir.serving.ray_serve.replicas",  # a shard's process; the encoder's loads torch when it is made
        "import hybrid_ir.training.ray_train.exchange",  # what Ray Train's controller unpickles
        "from hybrid_ir.client import SearchClient",
    ],
)
def test_who_does_not_encode_loads_no_torch(statement):
    assert loaded(statement, ENCODING) == []


@pytest.mark.parametrize(
    "statement",
    ["import hybrid_ir", "from hybrid_ir.cli.app import app", "import hybrid_ir.data", "import hybrid_ir.client"],
)
def test_the_package_the_commands_and_a_rooms_door_load_nothing_heavy(statement):
    assert loaded(statement, HEAVY) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from hybrid_ir.encoders import load_encoder, encode",
        "import hybrid_ir.training.step, hybrid_ir.training.losses.contrastive",
        "from hybrid_ir.serving import openapi; openapi()",
        "from hybrid_ir.index import open_shard",
        "from hybrid_ir.mining import mine_negatives",
        "import hybrid_ir.serving.ray_serve.replicas",
        "import hybrid_ir.serving.ray_serve.control",  # sets the environment that Ray Serve reads when it is imported
    ],
)
def test_encoding_training_steps_searching_and_http_load_no_ray(statement):
    assert loaded(statement, ("ray",)) == []
