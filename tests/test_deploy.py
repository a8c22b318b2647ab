"""The files under deploy/: they parse, and name only what is there."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from terrazzo.cli.verbs import verb_app

DEPLOY = Path(__file__).parents[1] / "deploy"
MANIFESTS = ("kubernetes/deployment.yaml", "kubernetes/kserve.yaml")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def containers() -> list[dict[str, Any]]:
    found = []
    for name in MANIFESTS:
        for document in documents(name):
            spec = document["spec"]
            pod = spec.get("predictor") or spec.get("template", {}).get("spec", {})
            found += pod.get("containers", [])
    return found


def test_every_container_has_probes_limits_and_no_rights() -> None:
    assert len(containers()) == 2
    for container in containers():
        for probe, path in (("readinessProbe", "/v2/health/ready"), ("livenessProbe", "/v2/health/live")):
            assert container[probe]["httpGet"]["path"] == path
        assert "memory" in container["resources"]["limits"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def commands() -> list[list[str]]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (start,) = (json.loads(each) for each in re.findall(r"^ENTRYPOINT (.*)$", text, re.M))
    images = [json.loads(each) for each in re.findall(r"^CMD (.*)$", text, re.M)]
    (compose,) = documents("compose.yaml")
    arguments = [*images, compose["services"]["terrazzo"]["command"], *(each["args"] for each in containers())]
    return [[*start[1:], *each] for each in arguments]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_have_only_options_that_there_are(command: list[str]) -> None:
    _, bound, *_ = verb_app("serve").parse_args(command[1:], exit_on_error=False, print_error=False)
    assert command[0] == "serve" and bound.arguments["host"] == "0.0.0.0"


def test_compose_is_read_only_and_reaches_this_machine_only() -> None:
    (compose,) = documents("compose.yaml")
    server = compose["services"]["terrazzo"]
    assert server["read_only"] is True and server["cap_drop"] == ["ALL"]
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (prometheus,) = documents("prometheus/prometheus.yaml")
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["terrazzo:8000"]


def test_the_dashboard_asks_for_figures_that_there_are() -> None:
    pytest.importorskip("prometheus_client")
    from terrazzo.serving.metrics import Metrics

    dashboard = json.loads((DEPLOY / "grafana" / "terrazzo.json").read_text(encoding="utf-8"))
    text = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    asked = set(re.findall(r"terrazzo_\w+", text))
    metrics = {metric.name for metric in Metrics(drift=True).registry.collect()}
    assert len(asked) > 8
    assert {re.sub("_(total|sum|count|bucket)$", "", name) for name in asked} <= metrics


def test_the_image_without_torch_needs_what_the_package_needs() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = {*project["dependencies"], *extras["serve"], *extras["export"]}
    listed = {line for line in (DEPLOY / "exported.txt").read_text().splitlines() if not line.startswith("#")}
    assert listed <= known and {*extras["serve"], "numpy>=1.26"} <= listed
    assert not any(line.startswith("torch") for line in listed)


def test_the_dockerfile_is_slim_and_not_root_and_its_steps_can_be_run() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=\S+-slim", text, re.M) and re.search(r"^USER 10001", text, re.M)
    assert "HEALTHCHECK" in text and "/v2/health/ready" in text
    spec = importlib.util.spec_from_file_location("run_steps", DEPLOY / "run_steps.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for target in ("exported", "full"):
        copied, run = module.steps(target)
        assert all((DEPLOY.parent / name).exists() for name in copied)
        assert any("pip install" in each for each in run)
    assert "run_steps" not in sys.modules
