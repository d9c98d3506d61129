"""The files of cluster/ against what reads them: KubeRay's schemas, Ray's own, this repository's commands and
metrics.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.util.metrics import Counter, Gauge, Histogram, Metric
from typed_commands import parse, split

import hybrid_ir
from hybrid_ir.config.loading import load_experiment, parse_experiment
from hybrid_ir.serving.http_app import OPEN_TO_ALL
from hybrid_ir.serving.ray_serve import request_ids
from hybrid_ir.serving.ray_serve.gateway_metrics import GatewayMetrics
from hybrid_ir.training.ray_train.run_log import Gauges, open_log
from hybrid_ir.training.resources import check_resources, concurrent_trials
from hybrid_ir.tuning.search_space import load_space
from serve_app import Arguments

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
SCHEMAS = Path(__file__).resolve().parents[2] / "shared" / "data" / "kuberay-schemas"
needs_schemas = pytest.mark.skipif(not SCHEMAS.exists(), reason="KubeRay's schemas are not here")

MANIFESTS = sorted(CLUSTER.glob("kuberay/ray*.yaml"))
LAUNCHERS = [CLUSTER / "aws.yaml", CLUSTER / "on_premise.yaml"]
COMMENTED = [
    *CLUSTER.glob("kuberay/*.yaml"), *LAUNCHERS,
    *(CLUSTER / name for name in ("Dockerfile", "prometheus.yaml", "serve_local.yaml")),
]  # fmt: skip
DASHBOARD = CLUSTER / "grafana_dashboard.json"


def by_name(path):
    return path.name


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def locked():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def mappings(tree):
    """Every mapping in a tree, with the key it stands under."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield key, value
            yield from mappings(value)
    elif isinstance(tree, list):
        for value in tree:
            if isinstance(value, dict):
                yield None, value
            yield from mappings(value)


def cluster_of(manifest):
    """The cluster's specification in a RayCluster, a RayJob or a RayService."""
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def groups_of(manifest):
    cluster = cluster_of(manifest)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container_of(group):
    (container,) = group["template"]["spec"]["containers"]
    return container


# What a comment or the README tells the reader to type


def test_every_file_starts_with_its_three_commands():
    for path in COMMENTED:
        comment = path.read_text(encoding="utf-8").split("\n", 12)
        said = [line.split()[1] for line in comment if line.startswith("#   ") and line[4] != " "]
        assert said == ["start", "use", "stop"], path.name
    assert re.match("start: .*; use: .*; stop: ", json.loads(DASHBOARD.read_text(encoding="utf-8"))["description"])


def told():
    """(where, argv) of every hybrid-ir, ray and serve command in the comments, launcher commands, entrypoints and
    README.
    """
    for path in COMMENTED:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                yield from ((path.name, argv) for argv in split(line.lstrip("# ").partition(" ")[2]))
    for path in LAUNCHERS:
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            yield from ((path.name, argv) for command in load(path)[key] for argv in split(command))
    for path in MANIFESTS:
        yield from ((path.name, argv) for argv in split(load(path)["spec"].get("entrypoint", "")))
    for block in re.findall("```\n(.*?)```", (CLUSTER / "README.md").read_text(encoding="utf-8"), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            # The README's shell function for a job.
            yield from (("README.md", argv) for argv in split(re.sub("^submit ", "hybrid-ir ", line)))


TOLD = list(told())
MADE = ("$R/serve.yaml", "runs/jobs/serve.yaml")
"""What the reader makes of serve_local.yaml."""


def test_commands_are_found_where_there_are_some():
    assert {where for where, _ in TOLD} == {
        "README.md", "aws.yaml", "on_premise.yaml", "raycluster.yaml", "rayjob-train.yaml", "rayjob-tune.yaml",
        "rayservice.yaml", "serve_local.yaml",
    }  # fmt: skip


@pytest.mark.parametrize(("where", "argv"), TOLD, ids=[f"{where}: {' '.join(argv)[:60]}" for where, argv in TOLD])
def test_every_command_is_one_that_its_program_knows(where, argv):
    name, said = parse(argv)
    if name == "submit":
        name, said = parse(list(said["entrypoint"])) if said["entrypoint"][0] == "hybrid-ir" else ("", {})
    if said.get("config_file_name") not in (None, *MADE):
        assert (ROOT / said["config_file_name"]).is_file()
    if "cluster_config_file" in said:
        assert (ROOT / said["cluster_config_file"]).is_file()
    if name in ("prepare", "train", "tune"):
        experiment = load_experiment(in_checkout(said["config"]), said["overrides"] or ())
        for folder in (experiment.store, said.get("out") or experiment.out):
            assert str(folder).startswith(("/shared/", "$PWD/", "$R/")) or name == "prepare", folder
    if name == "tune":
        load_space(in_checkout(said["space"]))


def in_checkout(path):
    """The checkout's file that stands at `path` in the image; a relative path is the checkout's already."""
    return ROOT / path if not path.is_absolute() else image_files()[path.parts[3]].joinpath(*path.parts[4:])


def dockerfile():
    """(instruction, arguments) of each line."""
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    return [(x, y.split()) for x, _, y in (line.partition(" ") for line in text.splitlines()) if x.isupper()]


def image_files():
    """Name in /opt/hybrid-ir -> what the Dockerfile copies there."""
    copied, here = {}, None
    for instruction, arguments in dockerfile():
        if instruction == "WORKDIR":
            (here,) = arguments
        elif instruction == "COPY":
            *sources, to = arguments
            assert here == "/opt/hybrid-ir"
            copied |= {source if to in (".", "./") else to: ROOT / source for source in sources}
    assert all(path.exists() for path in copied.values())
    return copied


# KubeRay


def strict(schema):
    """KubeRay's schema, refusing unknown fields: Kubernetes drops them (or refuses them, depending on who applies)."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


def errors_of(manifest):
    schema = strict(json.loads((SCHEMAS / f"{manifest['kind'].lower()}.v1.json").read_text(encoding="utf-8")))
    schema["properties"]["metadata"] = {"properties": {"name": {"type": "string"}}, "additionalProperties": False}
    return list(jsonschema.Draft202012Validator(schema).iter_errors(manifest))


@needs_schemas
@pytest.mark.parametrize("path", MANIFESTS, ids=by_name)
def test_a_manifest_is_what_kuberay_takes(path):
    manifest = load(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert not errors_of(manifest)


@needs_schemas
@pytest.mark.parametrize("path", MANIFESTS, ids=by_name)
def test_a_misspelt_field_anywhere_is_noticed(path):
    manifest = copy.deepcopy(load(path))  # anchors share mappings
    for key, mapping in mappings(manifest):
        if key not in ("rayStartParams", "requests", "limits"):  # their keys are free
            mapping["mispselt"] = 1
            assert errors_of(manifest), key
            del mapping["mispselt"]


@pytest.mark.parametrize("path", MANIFESTS, ids=by_name)
def test_clusters_have_tokens_shared_storage_whole_resources_and_this_ray(path):
    manifest = load(path)
    cluster = cluster_of(manifest)
    assert cluster["rayVersion"] == locked()["ray"]
    assert cluster["authOptions"]["mode"] == "token"
    for group in groups_of(manifest):
        pod, container = group["template"]["spec"], container_of(group)
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert pod["securityContext"]["runAsNonRoot"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
        assert set(group["rayStartParams"]) <= {option_name(o) for o in ray_start_options()}


def ray_start_options():
    from ray.scripts.scripts import start

    return start.params


def option_name(option):
    return option.opts[0].lstrip("-")


def test_names_of_storage_and_secrets_are_those_of_storage_yaml():
    storage = (CLUSTER / "kuberay" / "storage.yaml").read_text(encoding="utf-8")
    secrets = dict(re.findall(r"create secret generic (\S+) --from-literal=(\w+)=", storage))
    claim = yaml.safe_load(storage)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    asked = {}
    for path in MANIFESTS:
        manifest = load(path)
        asked[cluster_of(manifest)["authOptions"]["secretName"]] = "auth_token"  # KubeRay's own name of the key
        for key, mapping in mappings(manifest):
            if key == "persistentVolumeClaim":
                assert mapping["claimName"] == claim["metadata"]["name"]
            if key == "secretKeyRef":
                asked[mapping["name"]] = mapping["key"]
    assert asked == secrets
    names = [load(path)["metadata"]["name"] for path in MANIFESTS]
    assert len(set(names)) == len(names)  # their services are named by them


def test_images_are_those_that_the_dockerfile_builds():
    built = {
        tag: "gpu" if "DEVICE=gpu" in line else "cpu"
        for line in (CLUSTER / "Dockerfile").read_text(encoding="utf-8").splitlines()
        for tag in re.findall(r"docker build .* -t (\S+)", line)
    }
    assert sorted(built.values()) == ["cpu", "gpu"]
    for path in MANIFESTS:
        for group in groups_of(load(path)):
            container = container_of(group)
            device = "gpu" if "nvidia.com/gpu" in container["resources"]["limits"] else "cpu"
            assert built[container["image"]] == device, path.name
    assert {re.split("[:-]", tag)[2] for tag in built} == {hybrid_ir.__version__.rpartition(".")[0]}


def resources_of(manifest):
    """What Ray's nodes have when all of the manifest's workers are there."""
    total = {"CPU": 0.0, "GPU": 0.0}
    for group in groups_of(manifest):
        limits = container_of(group)["resources"]["limits"]
        nodes = group.get("replicas", 1)
        total["CPU"] += nodes * float(group["rayStartParams"].get("num-cpus", limits["cpu"]))
        total["GPU"] += nodes * float(limits.get("nvidia.com/gpu", 0))
    return total


def test_jobs_fit_the_clusters_that_their_manifests_make():
    found = {}
    for path in MANIFESTS:
        manifest = load(path)
        if manifest["kind"] == "RayJob":
            # `train` and `tune` check what is there at the start.
            assert "enableInTreeAutoscaling" not in cluster_of(manifest)
            (argv,) = split(manifest["spec"]["entrypoint"])
            found[path.name], said = parse(argv)
            experiment = load_experiment(in_checkout(said["config"]), said["overrides"])
            resources = resources_of(manifest)
            if found[path.name] == "tune":
                assert concurrent_trials(experiment, resources) == resources["GPU"]
            else:
                check_resources(experiment, resources)
                assert experiment.train.workers == resources["GPU"]
    assert found == {"rayjob-train.yaml": "train", "rayjob-tune.yaml": "tune"}


def test_the_local_service_listens_on_this_machine_alone():
    from ray.serve.schema import ServeDeploySchema

    deployed = ServeDeploySchema.model_validate(load(CLUSTER / "serve_local.yaml"))
    (application,) = deployed.applications
    assert application.import_path == "serve_app:app"
    assert Arguments(**application.args).index == "INDEX"
    assert deployed.http_options.host == "127.0.0.1"


def test_the_service_of_kuberay_is_that_of_serve_yaml():
    from ray.serve.schema import ServeDeploySchema

    spec = load(CLUSTER / "kuberay" / "rayservice.yaml")["spec"]
    content = yaml.safe_load(spec["serveConfigV2"])
    assert content == load(CLUSTER / "serve.yaml")
    deployed = ServeDeploySchema.model_validate(content)
    (application,) = deployed.applications
    assert application.import_path == "serve_app:app"
    Arguments(**application.args)
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    for group in spec["rayClusterConfig"]["workerGroupSpecs"]:
        probe = container_of(group)["readinessProbe"]["httpGet"]
        assert probe["path"] in OPEN_TO_ALL
        assert probe["port"] == deployed.http_options.port
    for group in groups_of({"spec": spec}):
        variables = {variable["name"]: variable.get("value") for variable in container_of(group)["env"]}
        assert "HYBRID_IR_API_KEYS" in variables
        assert exported_for_logs().items() <= variables.items()


def exported_for_logs():
    """What docs/operate.md says stands where Ray is started, so that request ids and logs are as on a laptop."""
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^export (RAY_SERVE_\w+)=(\S+)$", page, re.M))
    assert found["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == request_ids.CALLBACK
    assert len(found) == 2
    return found


# Ray's cluster launcher


@pytest.mark.parametrize("path", LAUNCHERS, ids=by_name)
def test_ray_is_started_with_the_variables_of_the_service_on_every_node(path):
    config = load(path)
    for command in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in config[command] if "ray start" in line]
        said = dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", start))
        assert exported_for_logs().items() <= said.items()


def test_the_readme_exports_the_variables_of_the_service():
    said = re.findall(r"(RAY_SERVE_\w+)=(\S+)", (CLUSTER / "README.md").read_text(encoding="utf-8"))
    assert exported_for_logs().items() <= dict(said).items()


@pytest.mark.parametrize("path", LAUNCHERS, ids=by_name)
def test_a_launcher_file_is_what_ray_up_takes(path):
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(path)
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(config, schema)
    known = set(schema["properties"]["provider"]["properties"]) | {"worker_ips", "head_ip"}
    assert set(config["provider"]) <= known  # the schema itself lets any key of the provider pass
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("path", LAUNCHERS, ids=by_name)
def test_a_launched_node_has_token_storage_and_the_locked_package(path):
    config = load(path)
    home = f"/home/{config['auth']['ssh_user']}"
    assert config["file_mounts"] == {f"{home}/.ray/auth_token": "~/.ray/auth_token", f"{home}/hybrid-ir": "."}
    setup = "\n".join(config["setup_commands"])
    assert "export RAY_AUTH_MODE=token" in setup
    assert "/shared" in setup
    assert all("-c ~/hybrid-ir/constraints.txt" in x for x in config["setup_commands"] if "pip install" in x)
    assert config["setup_commands"][-1].endswith(" ~/hybrid-ir")
    assert "REPLACE" in path.read_text(encoding="utf-8")


def test_workers_on_aws_come_when_there_is_work():
    types = load(CLUSTER / "aws.yaml")["available_node_types"]
    assert sorted(types) == ["cpu", "gpu", "head"]
    assert types["cpu"]["min_workers"] == types["gpu"]["min_workers"] == 0
    assert load(CLUSTER / "aws.yaml")["max_workers"] == types["cpu"]["max_workers"] + types["gpu"]["max_workers"]


# The image


def test_the_image_has_the_python_that_is_checked_and_the_lock():
    project = pyproject()
    (base,) = [arguments[0] for instruction, arguments in dockerfile() if instruction == "FROM"]
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", base)[1]
    assert version in SpecifierSet(project["project"]["requires-python"])
    assert version == project["tool"]["pyright"]["pythonVersion"]
    installs = [" ".join(arguments) for _, arguments in dockerfile() if "install" in arguments and "pip" in arguments]
    assert len(installs) == 2
    assert all("-c constraints.txt" in install for install in installs)
    assert {"constraints.txt", "pyproject.toml", "serve_app.py", "hybrid_ir"} <= set(image_files())


def test_the_lock_has_every_dependency_in_a_version_that_is_asked_for():
    pins = locked()
    for line in pyproject()["project"]["dependencies"]:
        requirement = Requirement(line)
        assert pins[requirement.name.lower().replace("_", "-")] in requirement.specifier, line


def test_the_image_runs_as_the_user_of_the_manifests():
    (user,) = [arguments for instruction, arguments in dockerfile() if instruction == "USER"]
    for path in MANIFESTS:
        for group in groups_of(load(path)):
            assert [str(group["template"]["spec"]["securityContext"]["runAsUser"])] == user


# Metrics


@pytest.fixture
def emitted(monkeypatch):
    """Name at Prometheus -> labels, of every metric that the service and the training declare: through Ray's own
    exporter, which appends `_total` to counters and `_bucket`, `_sum` and `_count` to histograms."""
    from prometheus_client import REGISTRY
    from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder

    declared: list[Metric] = []
    for kind in (Counter, Gauge, Histogram):
        monkeypatch.setattr(kind, "__init__", noting(kind.__init__, declared))
    GatewayMetrics()
    Gauges("run")
    recorder = OpenTelemetryMetricRecorder()
    for metric in declared:
        name, labels = metric.info["name"], dict.fromkeys(metric.info["tag_keys"], "x")
        if isinstance(metric, Histogram):
            recorder.register_histogram_metric(name, "-", metric.info["boundaries"])
        else:
            assert isinstance(metric, Counter | Gauge)
            counts = isinstance(metric, Counter)
            (recorder.register_counter_metric if counts else recorder.register_gauge_metric)(name, "-")
        recorder.set_metric_value(name, labels, 1.0)
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    return {s.name: {x for x in s.labels if not x.startswith("otel_")} for s in samples if "hybrid_ir" in s.name}


def noting(initialise, declared):
    def noted(self, *arguments, **more):
        declared.append(self)
        initialise(self, *arguments, **more)

    return noted


def queries():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ()))
    yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            yield f"max by ({label}) ({metric})"


def names_in(query):
    """(metrics, labels) of a PromQL query of the dashboard's kind."""
    selectors = " ".join(re.findall(r"\{(.*?)\}", query))
    grouped = " ".join(re.findall(r"\bby \((.*?)\)", query))
    labels = set(re.findall(r"(\w+)=~?\"", selectors)) | set(re.findall(r"\w+", grouped))
    rest = re.sub(r"\{.*?\}|\[.*?\]|\bby \(.*?\)", " ", query)
    words = {"sum", "max", "count", "absent", "changes", "histogram_quantile", "rate", "unless", "offset"}
    return set(re.findall(r"\b[a-z]\w*\b(?!\s*\()", rest)) - words, labels


def test_names_in_a_query_are_told_apart():
    query = 'histogram_quantile(0.5, sum by (le, shard) (rate(a_bucket{route="x"}[1m]))) / sum(b)'
    assert names_in(query) == ({"a_bucket", "b"}, {"le", "shard", "route"})


def test_the_dashboard_asks_for_metrics_and_labels_that_are_emitted(emitted):
    asked = set()
    for query in queries():
        metrics, labels = names_in(query)
        assert metrics <= set(emitted), query
        assert all(labels <= emitted[metric] for metric in metrics), query
        asked |= metrics
    assert not {name for name in set(emitted) - asked if not name.endswith(("_sum", "_count", "_created"))}


def lost(ours, theirs, at=""):
    """Places of what we wrote and a reader has not."""
    if isinstance(ours, dict):
        there = theirs if isinstance(theirs, dict) else {}
        return [place for key, value in ours.items() for place in lost(value, there.get(key), f"{at}.{key}")]
    if isinstance(ours, list):
        there = theirs if isinstance(theirs, list) and len(theirs) == len(ours) else [None] * len(ours)
        return [
            place
            for n, (own, other) in enumerate(zip(ours, there, strict=True))
            for place in lost(own, other, f"{at}.{n}")
        ]
    return [] if ours == theirs else [at]


def as_grafana_reads(dashboard):
    register_default_plugins()
    return json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))


def test_grafanas_own_reader_loses_nothing_of_the_dashboard():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    # What the Prometheus data source adds to an annotation is its own, and in no schema of dashboards.
    of_prometheus = {f".annotations.list.0.{key}" for key in ("titleFormat", "textFormat", "step")}
    assert set(lost(dashboard, as_grafana_reads(dashboard))) == of_prometheus
    misspelt = copy.deepcopy(dashboard)
    misspelt["panels"][1]["targetz"] = misspelt["panels"][1].pop("targets")
    misspelt["panels"][2]["targets"][0]["legend"] = "x"
    assert {".panels.1.targetz.0.expr", ".panels.2.targets.0.legend"} <= set(lost(misspelt, as_grafana_reads(misspelt)))


def test_panels_have_ids_of_their_own_a_data_source_and_places_that_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24  # Grafana's columns
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= names_in(target["expr"])[1], target


def test_the_dashboard_shows_what_an_operator_asks_first():
    shown = {panel["title"]: " ".join(t["expr"] for t in panel.get("targets", ())) for panel in panels_of_the_service()}
    for metric, what in (
        ("requests_total", "by (route, code)"), ("request_duration_seconds_bucket", "0.99"), ("requests_total", "5.."),
        ("missing_shards_total", "/"), ("release_info", "by (index_version)"),
    ):  # fmt: skip
        assert any(f"ray_hybrid_ir_{metric}" in query and what in query for query in shown.values()), metric


def panels_of_the_service():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return panels[: next(n for n, panel in enumerate(panels) if panel["title"] == "Training")]


def alerts():
    return [rule for group in load(CLUSTER / "alerts.yaml")["groups"] for rule in group["rules"]]


def test_alerts_ask_for_metrics_and_labels_that_are_emitted(emitted):
    assert load(CLUSTER / "prometheus.yaml")["rule_files"] == ["alerts.yaml"]
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) >= 9
    for rule in alerts():
        metrics, labels = names_in(rule["expr"])
        assert metrics, rule
        assert metrics <= set(emitted), rule
        assert all(labels <= emitted[metric] | {"le"} for metric in metrics), rule
        assert rule["labels"]["severity"] in ("page", "ticket"), rule
        assert rule["annotations"].keys() == {"summary", "action"}, rule
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= set().union(
            *(emitted[metric] for metric in metrics)
        ), rule


def test_a_typo_in_an_alert_would_be_noticed(emitted):
    metrics, _ = names_in("sum(rate(ray_hybrid_ir_request_total[5m])) > 0")
    assert not metrics <= set(emitted)


def test_the_rows_of_a_run_s_log_are_gauges_with_its_name(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(
        Gauge, "set", lambda self, value, tags: seen.update({(self.info["name"], *tags.values()): value})
    )
    (tmp_path / "alpha").mkdir()
    with open_log(tmp_path / "alpha", parse_experiment({"train": {"trackers": []}}, "test")) as write:
        write({"step": 10, "loss": 2.5, "input_wait": 0.25, "kinds": {"monolingual": 10}})
        write({"step": 20, "AP_mean": 0.5, "rank_distance": 800.0})
    assert seen == {
        ("hybrid_ir_train_step", "alpha"): 20,
        ("hybrid_ir_train_loss", "alpha"): 2.5,
        ("hybrid_ir_train_input_wait", "alpha"): 0.25,
        ("hybrid_ir_train_validation", "alpha", "AP_mean"): 0.5,
        ("hybrid_ir_train_validation", "alpha", "rank_distance"): 800.0,
    }


def test_prometheus_reads_the_file_that_ray_writes():
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (job,) = load(CLUSTER / "prometheus.yaml")["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"{get_default_ray_temp_dir()}/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
