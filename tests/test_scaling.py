"""Replicas by load: what Serve is told, what is refused, and a service that grows under load and shrinks after it."""

from __future__ import annotations

import json

import pytest
from indices import sample_passages, write_served_index
from pydantic import ValidationError
from services import Asking, Service, wait_until

from hybrid_ir.config import Serve
from hybrid_ir.index import read_manifest
from hybrid_ir.serving import build_app
from hybrid_ir.serving.ray_serve import deployments
from hybrid_ir.types import InputError


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling") / "index"
    write_served_index(folder, sample_passages())
    return folder


def scaled(application) -> dict[str, tuple | int]:
    """Deployment -> (fewest, most, target, seconds up, down), or how many there always are."""
    from ray.serve._private.build_app import build_app as built

    found = {}
    for deployment in built(application, name="x", default_runtime_env=None).deployments:
        config = deployment._deployment_config
        by_load = config.autoscaling_config
        found[deployment.name.rsplit("-", 1)[0]] = config.num_replicas if by_load is None else (
            by_load.min_replicas, by_load.max_replicas, by_load.target_ongoing_requests, by_load.upscale_delay_s,
            by_load.downscale_delay_s,
        )  # fmt: skip
    return found


def test_serve_is_told_the_fewest_the_most_and_what_each_is_to_have(index):
    scaling = {"gateways": 4, "replicas": 3, "requests_per_gateway": 8, "up_after_s": 5}
    made = scaled(build_app(str(index), Serve(placement="distributed", replicas=2, scaling=scaling)))
    assert made["gateway"] == (1, 4, 8, 5, 600)
    assert made["encoder"] == made["shard-000"] == made["shard-001"] == (2, 3, 1, 5, 600)


def test_without_it_there_are_as_many_as_before(index):
    made = scaled(build_app(str(index), Serve(placement="distributed", replicas=2, gateways=3)))
    assert made == {"gateway": 3, "encoder": 2, "shard-000": 2, "shard-001": 2}
    one = scaled(build_app(str(index), Serve(placement="distributed", scaling={"gateways": 2})))
    assert one == {"gateway": (1, 2, 16, 30, 600), "encoder": 1, "shard-000": 1, "shard-001": 1}


def test_threads_are_for_the_most_that_there_may_be(monkeypatch):
    monkeypatch.setattr(deployments, "usable_cpus", lambda: 16)
    bound = []
    monkeypatch.setattr(deployments, "_threads", lambda settings, processes: bound.append(processes))
    for settings in (Serve(), Serve(replicas=2), Serve(scaling={"replicas": 4})):
        deployments._threads_of_two(settings)
    assert bound == [2, 2, 8]


def test_a_release_that_is_swapped_to_has_what_the_service_was_deployed_with(index):
    manifest = read_manifest(index)
    deployed = Serve(
        placement="distributed", replicas=2, threads=3, log_format="json", traces=True, scaling={"replicas": 4},
        api_keys=("secret",), write_keys=("secret",),
    )  # fmt: skip
    spec = deployments.release_spec(str(index), manifest, None, deployed)
    assert "secret" not in json.dumps(spec)
    kept = deployments.settings_like(spec, Serve())
    assert (kept.replicas, kept.threads, kept.log_format, kept.traces, kept.scaling) == (
        2, 3, "json", True, deployed.scaling,
    )  # fmt: skip
    changed = deployments.settings_like(spec, Serve(threads=1, scaling={"calls_per_replica": 9}))
    assert (changed.replicas, changed.threads, changed.scaling.replicas, changed.scaling.calls_per_replica) == (
        2, 1, 4, 9,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"replicas=4 is the most, and less than replicas=5.*was deployed with"):
        deployments.settings_like(spec, Serve(replicas=5))
    assert deployments.settings_like({}, Serve(replicas=3)) == Serve(replicas=3)  # an older version's


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gateways": 3, "scaling": {"gateways": 2}}, "scaling.gateways=2 is the most, and less than gateways=3"),
        ({"replicas": 2, "scaling": {"replicas": 1}}, "scaling.replicas=1 is the most, and less than replicas=2"),
        ({"placement": "local", "scaling": {"replicas": 2}}, "scaling.replicas=2 needs placement=distributed"),
        ({"scaling": {"calls_per_replica": 0}}, "greater than 0"),
        ({"scaling": {"most": 2}}, "most"),
    ],
)
def test_what_contradicts_itself_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Serve(**settings)


def test_replicas_of_an_index_that_has_none_are_refused_before_anything_starts(index):
    with pytest.raises(
        InputError, match=r"serve.scaling.replicas=2 needs encoder and shards of their own.*distributed"
    ):
        build_app(str(index), Serve(scaling={"replicas": 2}))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.long
def test_gateways_and_encoders_grow_under_load_and_shrink_after_it_and_no_request_fails(index, tmp_path):
    service = Service(
        index, tmp_path / "log", "serve.placement=distributed", "serve.cpus_per_replica=0.1", "serve.threads=1",
        "serve.scaling={gateways: 2, replicas: 2, requests_per_gateway: 2, up_after_s: 1, down_after_s: 5}",
        # Serve looks every ten seconds else.
        RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1",
        RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1",
    ).wait()  # fmt: skip
    parts = ("hybrid-ir:gateway", "hybrid-ir:encoder")

    def running() -> list[int]:
        return [len(service.replicas(part)) for part in parts]

    try:
        assert running() == [1, 1]
        many = {"input": [f"river number {n}" for n in range(32)]}
        with (
            Asking(service.url, "/v1/embeddings", many, threads=6) as embeddings,
            Asking(service.url, "/v1/search", {"query": "river", "k": 3}, threads=2) as searches,
        ):
            wait_until(lambda: running() == [2, 2], 180)
        wait_until(lambda: running() == [1, 1], 180)
        assert {answer[2] for asking in (embeddings, searches) for answer in asking.answers} == {200}
        assert service.client.search("river", k=3)["coverage"]["complete"]
    finally:
        service.stop()
