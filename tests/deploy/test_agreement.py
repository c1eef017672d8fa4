"""Versions, ports, images and paths are the same in every file that names them."""

import re
import tomllib

from cluster.exporter import target_files
from tests.deploy.files import REPOSITORY, document, instructions, kind
from trainer.config import MetricsConfig

VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
CONSTRAINTS = dict(
    line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line
)
SERVICES = document("compose/compose.yaml")["services"]


def test_every_image_of_ours_has_the_version_of_the_package():
    job = kind("RayJob")["spec"]
    cluster = job["rayClusterSpec"]
    containers = [
        *job["submitterPodTemplate"]["spec"]["containers"],
        *cluster["headGroupSpec"]["template"]["spec"]["containers"],
        *cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"],
    ]
    assert {container["image"] for container in containers} == {f"facescale:{VERSION}"}
    assert SERVICES["head"]["image"] == f"${{FACESCALE_IMAGE:-facescale:{VERSION}}}"
    (labels,) = (rest for name, rest in instructions() if name == "LABEL")
    assert f'org.opencontainers.image.version="{VERSION}"' in labels


def test_kuberay_is_told_the_ray_version_of_the_image():
    assert kind("RayJob")["spec"]["rayClusterSpec"]["rayVersion"] == CONSTRAINTS["ray"]


def test_the_image_takes_the_tested_versions():
    runs = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert "grep '^torch==' constraints.txt" in runs
    assert "--constraint constraints.txt" in runs
    assert "torch" in CONSTRAINTS


def test_ports_agree():
    (exposed,) = (rest for name, rest in instructions() if name == "EXPOSE")
    gcs, dashboard, exporter = map(int, exposed.split())
    assert exporter == MetricsConfig().port
    head = SERVICES["head"]["command"]
    assert f"--port={gcs}" in head
    assert f"--dashboard-port={dashboard}" in head
    assert f"--address=head:{gcs}" in SERVICES["worker"]["command"]
    assert f"127.0.0.1:{dashboard}:{dashboard}" in SERVICES["head"]["ports"]
    pod = kind("RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports == {"gcs": gcs, "dashboard": dashboard, "facescale": exporter}
    assert f"http://127.0.0.1:{dashboard}" in kind("RayJob")["spec"]["entrypoint"]
    (health,) = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    assert f":{gcs}" in health


def test_prometheus_looks_where_exporters_write(tmp_path):
    _, beside = target_files(tmp_path / "run-a", node="gpu-17")
    pattern = document("prometheus/prometheus.yml")["scrape_configs"][0]["file_sd_configs"][0]
    mount = next(v for v in SERVICES["prometheus"]["volumes"] if ":/runs" in v)
    assert mount.endswith(":/runs:ro")
    inside = "/runs/" + str(beside.relative_to(tmp_path))
    (files,) = pattern["files"]
    assert re.fullmatch(re.escape(files).replace(r"\*", "[^/]*"), inside)


def test_the_runs_folder_is_the_same_place_for_those_who_write_and_who_read():
    def source(service: str) -> str:
        (mount,) = (v for v in SERVICES[service]["volumes"] if re.search(r":/runs(:ro)?$", v))
        return mount.rpartition("}")[0]

    assert source("head") == source("worker") == source("prometheus")
