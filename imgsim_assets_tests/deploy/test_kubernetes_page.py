"""docs/kubernetes.md: what a machine without a cluster can say about its values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import yaml

from imgsim_assets.cli.serve import command as serve
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets_tests.deploy.files import ROOT, own_services

_IMAGE = "registry.example/imgsim_assets:1"
# Values of the chart of Dagster, as its schema names them.
_VALUES = {
    *("global", "postgresql", "dagsterWebserver", "dagsterDaemon", "dagster-user-deployments"),
    *("computeLogManager", "concurrency", "runLauncher", "telemetry"),
}


def _blocks() -> dict[str, list[Any]]:
    """The documents of each YAML block by the name of its file."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    found = {}
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        name = re.match(r"# ([\w./-]+)", block)
        assert name is not None, block
        found[name[1]] = list(yaml.safe_load_all(block))
    return found


def _containers() -> Iterator[dict[str, Any]]:
    (deployment, _), (cluster,) = _blocks()["serve.yaml"], _blocks()["ray.yaml"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for template in (deployment["spec"]["template"], *(group["template"] for group in groups)):
        yield from template["spec"]["containers"]


def test_page_says_that_it_was_not_run() -> None:
    assert '!!! warning "Not run"' in (ROOT / "docs" / "kubernetes.md").read_text()


def test_settings_are_those_of_the_compose_file() -> None:
    config, secret, password = _blocks()["settings.yaml"]
    names = {*config["data"], *secret["stringData"]}

    assert names <= set(own_services()["serve"]["environment"])
    assert {"IMGSIM_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= names
    (values,) = _blocks()["values.yaml"]
    assert values["global"]["postgresqlSecretName"] == password["metadata"]["name"]


def test_values_name_keys_of_the_chart_and_one_image() -> None:
    (values,) = _blocks()["values.yaml"]

    assert set(values) == _VALUES
    assert values["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    services = [values["dagsterWebserver"], values["dagsterDaemon"]]
    services += values["dagster-user-deployments"]["deployments"]
    for service in services:
        assert ":".join(service["image"][key] for key in ("repository", "tag")) == _IMAGE
        assert service["envConfigMaps"] == service["envSecrets"] == [{"name": "imgsim"}]
    (code,) = values["dagster-user-deployments"]["deployments"]
    command = own_services()["code_location"]["command"]
    assert code["codeServerArgs"] == command[-2:]
    assert str(code["port"]) in command


@pytest.mark.parametrize("name", ["values.yaml", "values-ray.yaml"])
def test_launcher_is_of_its_type(name: str) -> None:
    (values,) = _blocks()[name]
    launcher = values["runLauncher"]

    expected = {"K8sRunLauncher": "k8sRunLauncher", "CustomRunLauncher": "customRunLauncher"}
    assert set(launcher["config"]) == {expected[launcher["type"]]}


def test_ray_launcher_takes_its_config_and_asks_the_head_of_the_cluster() -> None:
    launcher = pytest.importorskip("dagster_ray").RayRunLauncher
    (values,), (cluster,) = _blocks()["values-ray.yaml"], _blocks()["ray.yaml"]
    config = values["runLauncher"]["config"]["customRunLauncher"]["config"]

    made = launcher.from_config_value(None, config)

    assert made.address == f"http://{cluster['metadata']['name']}-head-svc:8265"
    for service in ("dagsterDaemon", "dagsterWebserver"):
        mode, token = values[service]["env"]
        assert mode == {"name": "RAY_AUTH_MODE", "value": cluster["spec"]["authOptions"]["mode"]}
        assert token["valueFrom"]["secretKeyRef"]["name"] == cluster["metadata"]["name"]
    assert cluster["spec"]["rayVersion"] == version("ray")
    assert version("dagster") in (ROOT / "docs" / "kubernetes.md").read_text()


def test_containers_run_the_image_with_the_settings() -> None:
    containers = list(_containers())

    assert len(containers) == 3
    for container in containers:
        assert container["image"] == _IMAGE
        kinds = [kind for source in container["envFrom"] for kind in source]
        assert kinds == ["configMapRef", "secretRef"]
        assert container["resources"]["requests"]["memory"]


def test_serve_listens_where_its_service_sends_requests() -> None:
    deployment, service = _blocks()["serve.yaml"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    program, name, *arguments = container["args"]

    assert (program, name) == ("imgsim", "serve")
    values = serve.make_context(name, arguments, resilient_parsing=True).params
    probe = container["readinessProbe"]["httpGet"]
    assert values["port"] == probe["port"] == service["spec"]["ports"][0]["targetPort"]
    assert probe["httpHeaders"][0]["value"] in values["allowed_hosts"]


def test_catalog_of_the_page_is_valid() -> None:
    (catalog,) = _blocks()["imgsim_assets/defs/products/defs.yaml"]

    assert CatalogSettings(**catalog["attributes"]).shards == 256
