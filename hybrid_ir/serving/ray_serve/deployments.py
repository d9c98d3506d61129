"""The Ray Serve application of an index: gateway, encoder, one deployment a shard, and perhaps a reranker.

In: an index folder, for its manifest, and settings. Out: an application for `serve.run`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from ray import serve

from hybrid_ir.config import Serve
from hybrid_ir.index import Manifest, read_manifest
from hybrid_ir.machine import usable_cpus, usable_memory
from hybrid_ir.serving.ray_serve.distributed_release import RERANKER, deployment_names
from hybrid_ir.serving.ray_serve.gateway import Gateway
from hybrid_ir.serving.ray_serve.registry import Spec
from hybrid_ir.serving.ray_serve.replicas import EncoderReplica, RerankerReplica, ShardReplica
from hybrid_ir.serving.ray_serve.writer import WriterReplica
from hybrid_ir.storage import absolute
from hybrid_ir.types import InputError

OF_A_RELEASE = {
    "replicas", "scaling", "cpus_per_replica", "threads", "precision", "traces", "log_format", "deadline_ms",
}  # fmt: skip
"""Settings of encoder and shards. A release is served with them, and one that is swapped to takes them over."""


class ReleaseRoot:
    """Ingress of an app that only holds a release's deployments."""

    def __init__(self, *_: Any) -> None:
        pass


def build_app(index: str, settings: Serve, checkpoint: str | None = None) -> serve.Application:
    """The Serve application of an index: a gateway and, if distributed, its encoder and shards.

    Raises InputError for an index that cannot be served, and for a public interface without API keys.
    """
    manifest = read_manifest(index)
    keys = api_keys(settings)
    placement = settings.placement
    if placement == "auto":
        placement = "local" if fits_here(manifest) else "distributed"
    if placement == "local" and settings.scaling.replicas is not None:
        raise InputError(
            f"serve.scaling.replicas={settings.scaling.replicas} needs encoder and shards of their own, and this index "
            "is small enough to be served in the gateways: say serve.placement=distributed, or serve.scaling.gateways"
        )
    gateway: Any = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        **_replicas(settings.gateways, settings.scaling.gateways, settings.scaling.requests_per_gateway, settings),
        ray_actor_options={"num_cpus": settings.cpus_per_replica},
        # The queue is ours (429, deadlines); Serve's own limit only has to be above it.
        max_ongoing_requests=10 * settings.max_queue,
        logging_config=quiet(settings),
        max_constructor_retry_count=1,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=_ending_s(settings),
    )
    spec = release_spec(index, manifest, checkpoint, settings)
    # Keys travel by themselves: settings are shown and logged.
    shown = {**settings.model_dump(mode="json"), "api_keys": [], "write_keys": []}
    bound = release_deployments(index, manifest, settings, checkpoint) if placement == "distributed" else []
    if settings.reranker is not None:
        if Path(settings.reranker).exists():  # a folder; what is none is a name on the hub
            shown["reranker"] = absolute(settings.reranker)
        if placement == "distributed":
            bound.append(_reranker(shown["reranker"], settings))
    may_write, writer = write_keys(settings), None
    if may_write and placement == "local":
        writer = _writer(settings)
    threads = _threads(settings, settings.scaling.gateways or settings.gateways)
    return gateway.bind(uuid4().hex, spec, shown, keys, placement, threads, may_write, writer, *bound)


def _reranker(source: str, settings: Serve) -> serve.Application:
    deployment: Any = serve.deployment(RerankerReplica, name=RERANKER, **_options(settings))
    return deployment.bind(source, settings.rerank_max_tokens, _threads_of_two(settings), settings.traces)


def _writer(settings: Serve) -> serve.Application:
    deployment: Any = serve.deployment(
        WriterReplica,
        name="writer",
        num_replicas=1,
        ray_actor_options={"num_cpus": settings.cpus_per_replica},
        max_ongoing_requests=1000,  # they wait for each other there
        logging_config=quiet(settings),
        graceful_shutdown_timeout_s=_ending_s(settings),
    )
    return deployment.bind()


def quiet(settings: Serve) -> dict[str, Any]:
    """How Serve's processes log: warnings and errors, in the format that the settings name. Serve's own access log is
    left out: it calls every route `/`."""
    # The level keeps the access log away. Without `enable_access_log` a line of text would not say its request's id.
    return {"encoding": settings.log_format.upper(), "enable_access_log": True, "log_level": "WARNING"}


def release_spec(
    index: str, manifest: Manifest, checkpoint: str | None, settings: Serve, app: str | None = None
) -> Spec:
    spec = {"index": absolute(index), "version": manifest.index_version, "checkpoint": checkpoint, "app": app}
    return {**spec, "settings": settings.model_dump(mode="json", include=OF_A_RELEASE)}


def settings_like(active: Spec, asked: Serve) -> Serve:
    """Those of the release that serves, but for what `asked` was given. Raises InputError where they contradict each
    other."""
    kept = active.get("settings", {})  # a service that an older version deployed has none
    given = asked.model_dump(mode="json", exclude_unset=True)
    scaling = {**kept.get("scaling", {}), **given.get("scaling", {})}
    try:
        return Serve(**{**kept, **given, "scaling": scaling})
    except ValidationError as error:
        said = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise InputError(f"serve: {said} (with what the service was deployed with)") from None


def build_release_app(index: str, settings: Serve, checkpoint: str | None = None) -> serve.Application:
    """Encoder and shards of an index, without a gateway: what a swap deploys beside what serves."""
    manifest = read_manifest(index)
    root: Any = serve.deployment(
        ReleaseRoot, name="release", ray_actor_options={"num_cpus": 0}, logging_config=quiet(settings)
    )
    return root.bind(*release_deployments(index, manifest, settings, checkpoint))


def release_deployments(
    index: str, manifest: Manifest, settings: Serve, checkpoint: str | None
) -> list[serve.Application]:
    index = absolute(index)
    options = _options(settings)
    encoder, *shards = deployment_names(manifest)
    version, threads = manifest.index_version, _threads_of_two(settings)
    deploy: Any = serve.deployment
    return [
        deploy(EncoderReplica, name=encoder, **options).bind(
            index, version, checkpoint, threads, settings.precision, settings.traces
        ),
        *(
            deploy(ShardReplica, name=name, **options).bind(index, version, n, threads, settings.traces)
            for n, name in enumerate(shards)
        ),
    ]


def _options(settings: Serve) -> dict[str, Any]:
    """Of each deployment that computes."""
    return {
        **_replicas(settings.replicas, settings.scaling.replicas, settings.scaling.calls_per_replica, settings),
        "ray_actor_options": {"num_cpus": settings.cpus_per_replica},
        "max_ongoing_requests": 1000,
        "logging_config": quiet(settings),
        "max_constructor_retry_count": 1,
        "health_check_period_s": 1,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": _ending_s(settings),
    }


def _replicas(fewest: int, most: int | None, target: float, settings: Serve) -> dict[str, Any]:
    """How many of a deployment Serve runs: always `fewest`, or up to `most` with `target` requests each."""
    if most is None:
        return {"num_replicas": fewest}
    scaling = settings.scaling
    return {
        "autoscaling_config": {
            "min_replicas": fewest,
            "max_replicas": most,
            "target_ongoing_requests": target,
            "upscale_delay_s": scaling.up_after_s,
            "downscale_delay_s": scaling.down_after_s,
            # The average of so long is compared. Serve's 30 s would hold up who asks for less.
            "look_back_period_s": min(30.0, max(1.0, scaling.up_after_s)),
        }
    }


def api_keys(settings: Serve) -> tuple[str, ...]:
    """Keys of the settings and of HYBRID_IR_API_KEYS."""
    given = os.environ.get("HYBRID_IR_API_KEYS", "")
    return (*settings.api_keys, *(key.strip() for key in given.split(",") if key.strip()))


def write_keys(settings: Serve) -> tuple[str, ...]:
    """Keys of the settings and of HYBRID_IR_WRITE_KEYS."""
    given = os.environ.get("HYBRID_IR_WRITE_KEYS", "")
    return (*settings.write_keys, *(key.strip() for key in given.split(",") if key.strip()))


def bytes_of(manifest: Manifest) -> int:
    """Size of an index on disk, which is what it maps into memory."""
    return sum(file.bytes for file in manifest.every_file.values())


def fits_here(manifest: Manifest) -> bool:
    """Whether an index takes less than a quarter of this machine's memory, or of its container's."""
    return bytes_of(manifest) * 4 < usable_memory()


def _ending_s(settings: Serve) -> float:
    """A replica that Serve takes away ends what it is asked already, which no request waits for longer."""
    return settings.deadline_ms / 1000 + 2


def _threads_of_two(settings: Serve) -> int:
    """Threads of encoder, shards and reranker: of each two compute at a time. Replicas that come with the load may come
    to this machine; a fixed number of them is spread over several."""
    return _threads(settings, 2 * (settings.scaling.replicas or 1))


def _threads(settings: Serve, processes: int) -> int:
    """Threads of each of so many processes that compute on one machine."""
    return settings.threads or max(1, usable_cpus() // processes)
