import copy
import json
from pathlib import Path

import check_jsonschema
import jsonschema
import pytest
import yaml

from tests.deploy.files import DEPLOY, document

SCHEMA = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"

SERVICES = document("compose/compose.yaml")["services"]


def check(compose) -> None:
    """Against the schema of the Compose specification, as check-jsonschema carries it."""
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(compose)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_it_fits_the_compose_specification(name: str):
    check(document(f"compose/{name}"))


def test_the_schema_would_find_a_misspelt_field():
    compose = copy.deepcopy(document("compose/compose.yaml"))
    compose["services"]["head"]["comand"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        check(compose)


def test_it_has_a_head_workers_and_monitoring():
    assert set(SERVICES) == {"head", "worker", "prometheus", "grafana"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert set(document("compose/compose.gpu.yaml")["services"]) <= set(SERVICES)


def test_every_published_port_is_on_loopback():
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service for service in SERVICES.values())


def test_no_container_has_more_rights_than_it_needs():
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged")


def test_passwords_come_from_files_that_are_never_committed():
    compose = document("compose/compose.yaml")
    for secret in compose["secrets"].values():
        assert Path(secret["file"]).parent == Path("secrets")
    assert (DEPLOY / "compose/secrets/.gitignore").read_text().splitlines()[1:] == [
        "*",
        "!.gitignore",
    ]
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_admin_password"
    assert "grafana_admin_password" in SERVICES["grafana"]["secrets"]
    assert "GF_SECURITY_ADMIN_PASSWORD" not in environment


def test_grafana_lets_nobody_in_without_the_password():
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_ray_wants_its_token_on_every_node():
    for name in ("head", "worker"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_auth_token"
        assert SERVICES[name]["secrets"] == ["ray_auth_token"]


def test_every_service_has_a_health_check():
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for name in ("head", "worker"):  # the image's own, which asks the head
        assert SERVICES[name]["environment"]["RAY_HEAD"] == "head:6379"


def test_every_mounted_file_of_the_checkout_exists():
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.rpartition("}")[2].split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).exists(), volume


def test_grafana_finds_its_dashboard_and_source():
    source = document("grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    provider = document("grafana/provisioning/dashboards/facescale.yml")["providers"][0]
    mounts = dict(v.split(":")[:2] for v in SERVICES["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert (DEPLOY / "grafana/dashboards" / Path(home).name).exists()
    interval = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == interval["scrape_interval"]
