import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.files import documents, kind
from trainer import config

KUBERNETES = "1.32"
SCHEMA = json.loads((Path(__file__).parent / "schemas/rayjob.json").read_text())


def check(job: dict[str, Any]) -> None:
    """The RayJob against KubeRay's fields, its pods against Kubernetes' own schemas."""
    jsonschema.Draft7Validator(SCHEMA).validate(job)
    for name, template in pod_templates(job).items():
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name} | template.get("metadata", {}),
            "spec": template["spec"],
        }
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pod_templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return {
        "submitter": job["spec"]["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        **{group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]},
    }


def test_the_job_fits_the_custom_resource():
    check(kind("RayJob"))


def test_every_other_object_fits_kubernetes():
    others = [d for d in documents("kuberay/rayjob.yaml") if d["kind"] != "RayJob"]
    assert len(others) == 5
    for other in others:
        kubernetes_validate.validate(other, KUBERNETES, strict=True)


CLUSTER = ["spec", "rayClusterSpec"]
MISTAKES = [
    (["spec"], "backofLimit", 3),
    (["spec"], "submissionMode", "K8SJobMode"),
    (CLUSTER, "rayversion", "2.60.0"),
    ([*CLUSTER, "authOptions"], "mode", "Token"),
    ([*CLUSTER, "workerGroupSpecs", 0], "replicas", "2"),
    ([*CLUSTER, "headGroupSpec", "rayStartParams"], "num-cpus", 0),
    ([*CLUSTER, "headGroupSpec", "template", "spec"], "volume", []),
]


@pytest.mark.parametrize(("path", "key", "value"), MISTAKES, ids=str)
def test_the_schema_would_find_a_mistake(path: list[Any], key: str, value: Any):
    job = copy.deepcopy(kind("RayJob"))
    place = job
    for step in path:
        place = place[step]
    place[key] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(job)


def run_config() -> config.RunConfig:
    return config.from_tree(
        yaml.safe_load(kind("ConfigMap")["data"]["run.yaml"]), source="run.yaml"
    )


def test_its_run_file_is_one_that_facescale_accepts_and_the_cluster_can_hold():
    run = run_config()
    (group,) = kind("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    cpus = int(group["rayStartParams"]["num-cpus"])
    assert run.cluster.workers * run.cluster.cpus_per_worker <= group["replicas"] * cpus
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"]["cpu"] == str(cpus)


def test_the_job_submits_that_run_file_and_waits_for_that_run():
    run = run_config()
    entrypoint = kind("RayJob")["spec"]["entrypoint"]
    assert "facescale submit /etc/facescale/run.yaml" in entrypoint
    assert f"facescale wait {run.folder}" in entrypoint


def test_everything_mounted_is_declared():
    job, objects = kind("RayJob"), documents("kuberay/rayjob.yaml")
    claims = {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    run = run_config()
    for name, template in pod_templates(job).items():
        if name == "submitter":
            continue
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {
            mount["mountPath"]: volumes[mount["name"]]
            for mount in template["spec"]["containers"][0]["volumeMounts"]
        }
        assert mounts["/runs"]["persistentVolumeClaim"]["claimName"] in claims
        assert mounts["/data"]["persistentVolumeClaim"]["claimName"] in claims
        assert (
            mounts["/etc/facescale"]["configMap"]["name"] == kind("ConfigMap")["metadata"]["name"]
        )
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert Path(run.folder).parent == Path("/runs")
        assert Path(run.data.path).is_relative_to("/data")


def test_ray_wants_a_token_from_a_secret_that_is_not_in_the_file():
    auth = kind("RayJob")["spec"]["rayClusterSpec"]["authOptions"]
    assert auth == {"mode": "token", "secretName": "facescale-ray-token"}
    assert not [d for d in documents("kuberay/rayjob.yaml") if d["kind"] == "Secret"]


def test_no_pod_runs_as_root():
    for template in pod_templates(kind("RayJob")).values():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_only_the_run_the_operator_and_the_monitoring_get_in():
    job, policy = kind("RayJob"), kind("NetworkPolicy")["spec"]
    selected = policy["podSelector"]["matchLabels"]
    for template in pod_templates(job).values():
        assert selected.items() <= template["metadata"]["labels"].items()
    own, operator, monitoring = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": selected}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert [port["port"] for port in monitoring["ports"]] == [run_config().metrics.port]
    assert policy["policyTypes"] == ["Ingress"]


def test_a_failed_job_is_tried_again_and_cleans_up():
    spec = kind("RayJob")["spec"]
    assert spec["backoffLimit"] >= 3
    assert spec["shutdownAfterJobFinishes"] is True
