"""The files in deploy/: their names are the server's, their numbers agree, and the image serves.

`make lint` checks their schemas and the Dockerfiles.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mattebox_server.local import LocalServer
from mattebox_server.rpc.service import SERVICE_NAME
from mattebox_server.settings import Settings
from mattebox_server.telemetry.metrics import COUNTERS_AND_GAUGES, HISTOGRAMS
from queries import asked_for

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

# Series of Prometheus itself and of its client's process collector.
FOREIGN = ("up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds")
SERIES = {
    **{name: set(labels) for name, labels in COUNTERS_AND_GAUGES.items()},
    **{f"{name}_bucket": {*labels, "le"} for name, labels in HISTOGRAMS.items()},
    **{f"{name}_{kind}": set(labels) for name, labels in HISTOGRAMS.items() for kind in ("sum", "count")},
    **{name: set[str]() for name in FOREIGN},
}
# Labels that Prometheus' configuration adds to every series.
OF_THE_TARGET = {"job", "instance", "namespace", "pod", "app_kubernetes_io_name"}


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


COMPOSE = read("compose.yaml")["services"]["mattebox"]
POD = read("kubernetes/base/deployment.yaml")["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
DASHBOARD = json.loads((DEPLOY / "grafana" / "mattebox.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def instruction(name: str, file: str = "Dockerfile") -> list[str]:
    """The arguments of each such instruction of a Dockerfile, with its lines joined."""
    lines = (DEPLOY / file).read_text().replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"{name} ")]


def image_environment(file: str = "Dockerfile") -> dict[str, str]:
    pairs = [word.partition("=") for line in instruction("ENV", file) for word in line.split()]
    return {name: value for name, _, value in pairs}


def expressions() -> list[str]:
    adapter = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    placeholders = {"<<.Series>>": "mattebox_backlog_seconds", "<<.LabelMatchers>>": 'pod=""', "<<.GroupBy>>": "pod"}
    queries = [rule["metricsQuery"] for rule in adapter]
    for word, value in placeholders.items():
        queries = [query.replace(word, value) for query in queries]
    return [
        *(target["expr"] for panel in PANELS for target in panel["targets"]),
        *(rule["expr"] for group in read("prometheus/alerts.yml")["groups"] for rule in group["rules"]),
        *queries,
        *(rule["seriesQuery"] for rule in adapter),
    ]


@pytest.mark.parametrize("expression", expressions())
def test_queries_ask_for_what_there_is(expression: str) -> None:
    asked = asked_for(expression)
    assert asked
    for series, labels in asked.items():
        assert series in SERIES
        assert labels <= SERIES[series] | OF_THE_TARGET


def test_queries_that_ask_for_something_else_are_found() -> None:
    assert asked_for('sum by (stag) (rate(nope{x="1"}[5m]))') == {"nope": {"stag", "x"}}
    with pytest.raises(ValueError, match="unclosed"):
        asked_for("sum(rate(")


def test_the_autoscaler_gets_its_metric() -> None:
    (rule,) = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    (metric,) = read("kubernetes/base/autoscaler.yaml")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"] == "mattebox_backlog_seconds"
    assert rule["seriesQuery"].startswith("mattebox_backlog_seconds{")


def test_the_dashboard_shows_every_metric() -> None:
    shown = {series for panel in PANELS for target in panel["targets"] for series in asked_for(target["expr"])}
    assert set(COUNTERS_AND_GAUGES) <= shown
    assert all(any(series.startswith(f"{name}_") for series in shown) for name in HISTOGRAMS)


def test_the_dashboard_is_whole() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in everything)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(column for column, _ in cells) < 24
    sources = [panel["datasource"] for panel in PANELS] + [t["datasource"] for p in PANELS for t in p["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "instance"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
def test_alerts_fire_when_they_should() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            ["promtool", *command], capture_output=True, text=True, check=False, cwd=DEPLOY / "prometheus"
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_settings_are_known() -> None:
    tls = read("kubernetes/tls/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
    named = [
        *image_environment(),
        *image_environment("model.Dockerfile"),
        *COMPOSE["environment"],
        *(variable["name"] for container in (CONTAINER, tls) for variable in container["env"]),
    ]
    settings = {name.removeprefix("MATTEBOX_").lower() for name in named if name.startswith("MATTEBOX_")}
    assert {"threads", "metrics_address", "allow_insecure", "tls_key", "provider"} <= settings
    assert settings <= set(Settings.model_fields)


def test_the_image_serves_and_is_healthy(colour_model: Path, tmp_path: Path) -> None:
    """Runs the server in the image's environment, and the image's health check against it."""
    image = {name: value for name, value in image_environment().items() if name.startswith("MATTEBOX_")}
    host, _, _ = image["MATTEBOX_ADDRESS"].rpartition(":")
    assert json.loads(instruction("ENTRYPOINT")[0]) == ["mattebox-server"]
    program, *arguments = json.loads(instruction("HEALTHCHECK")[0].partition("CMD ")[2])
    assert program == "mattebox"
    own = {"MATTEBOX_CACHE_DIR": str(tmp_path), "MATTEBOX_PROVIDER": "cpu"}
    flags = ["--address", "127.0.0.1:0"]  # tests listen on loopback only

    def check(port: str) -> int:
        environment = os.environ | image | {"MATTEBOX_ADDRESS": f"{host}:{port}"}
        command = [sys.executable, "-m", "mattebox", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    with LocalServer([colour_model], flags, os.environ | image | own) as server:
        port = server.address.rpartition(":")[2]
        assert check(port) == 0
    assert check(port) == 1


def test_draining_ends_before_the_kill() -> None:
    grace_s = Settings.model_fields["grace_seconds"].default
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > grace_s
    before_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > before_s + grace_s
    assert instruction("STOPSIGNAL") == ["SIGTERM"]


def test_ports_and_probes_are_the_servers() -> None:
    address = image_environment()["MATTEBOX_ADDRESS"]
    port = int(address.rpartition(":")[2])
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    metrics = {each["name"]: each for each in CONTAINER["env"]}["MATTEBOX_METRICS_ADDRESS"]["value"]
    assert ports == {"grpc": port, "metrics": int(metrics.rpartition(":")[2])}
    assert instruction("EXPOSE") == [" ".join(str(each) for each in ports.values())]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["grpc"]["port"] == port
        assert CONTAINER[probe]["grpc"].get("service", SERVICE_NAME) == SERVICE_NAME
    assert COMPOSE["ports"] == [f"127.0.0.1:{port}:{port}"]
    (target,) = read("prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"mattebox:{ports['metrics']}"


def test_threads_are_what_the_limits_allow() -> None:
    assert COMPOSE["environment"]["MATTEBOX_THREADS"] == str(COMPOSE["cpus"])
    (field,) = [
        each["valueFrom"]["resourceFieldRef"] for each in CONTAINER["env"] if each["name"] == "MATTEBOX_THREADS"
    ]
    assert field == {"containerName": CONTAINER["name"], "resource": "limits.cpu"}


def test_the_largest_photo_fits_into_the_containers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default requests take three quarters of the memory that the container has."""
    assert CONTAINER["resources"]["requests"] == CONTAINER["resources"]["limits"]
    assert (CONTAINER["resources"]["limits"]["memory"], COMPOSE["mem_limit"]) == ("4Gi", "4g")
    limit_bytes = 4 * 2**30
    monkeypatch.setattr("mattebox_server.settings.available_bytes", lambda: limit_bytes)
    settings = Settings(model=["model.onnx"])
    assert settings.least_memory_bytes < 0.75 * limit_bytes
    assert settings.memory.work_bytes == 0.75 * 0.75 * limit_bytes
    (alert,) = [
        rule["expr"]
        for group in read("prometheus/alerts.yml")["groups"]
        for rule in group["rules"]
        if rule["alert"] == "MatteboxMemory"
    ]
    (bound,) = re.findall(r"process_resident_memory_bytes > (\S+)", alert)
    assert 0.85 * limit_bytes < float(bound) < 0.95 * limit_bytes


def test_nothing_runs_as_root() -> None:
    user = instruction("USER")
    assert user == [f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"]
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["capabilities"]["drop"] == ["ALL"]
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert {image_environment()["MATTEBOX_CACHE_DIR"], "/tmp"} <= mounts


def test_versions_are_the_projects() -> None:
    assert f"VERSION={VERSION}" in instruction("ARG")
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.is_file()]
    tags = {tag for text in texts for tag in re.findall(r"(\d+\.\d+\.\d+)-(?:cpu|cuda)\b", text)}
    assert tags == {VERSION}


def test_all_that_the_image_is_made_of_reaches_the_build() -> None:
    sent = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = {
        source
        for line in instruction("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
        if not source.startswith("--")
    }
    assert copied == set(sent)
    assert all((ROOT / source).exists() for source in copied)
