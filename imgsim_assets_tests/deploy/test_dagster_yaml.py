"""deploy/dagster/: each file is loaded as Dagster loads it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from dagster._core.instance.ref import InstanceRef

from imgsim_assets_tests.deploy.files import (
    COMPOSE_ENGINES,
    DEPLOY,
    ENGINES,
    environment_references,
    load,
    own_services,
)

_LAUNCHERS = {
    "local": "dagster.DefaultRunLauncher",
    "celery": "dagster_celery.launcher.CeleryRunLauncher",
    "ray": "dagster_ray.RayRunLauncher",
    "kubernetes": "dagster_k8s.K8sRunLauncher",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ENGINES:
        for name in environment_references(load(f"dagster/{engine}.yaml")):
            value = "5432" if name.endswith("_PORT") else f"redis://{name.lower()}"
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def _open(engine: str, folder: Path) -> InstanceRef:
    shutil.copy(DEPLOY / "dagster" / f"{engine}.yaml", folder / "dagster.yaml")
    return InstanceRef.from_dir(str(folder))


# The client of Kubernetes takes three seconds to import.
_SLOW = pytest.param("kubernetes", marks=pytest.mark.slow)


@pytest.mark.parametrize("engine", [*COMPOSE_ENGINES, _SLOW])
@pytest.mark.usefixtures("environment")
def test_dagster_loads_the_file_with_its_launcher_and_queue(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = _LAUNCHERS[engine].rpartition(".")
    pytest.importorskip(module.partition(".")[0])
    if engine == "kubernetes":
        config = importlib.import_module("kubernetes.config")
        monkeypatch.setattr(config, "load_incluster_config", lambda: None)

    instance = _open(engine, tmp_path)

    assert isinstance(instance.run_launcher, getattr(importlib.import_module(module), name))
    assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
    assert dict(instance.settings)["run_monitoring"] == load("dagster/local.yaml")["run_monitoring"]


@pytest.mark.usefixtures("environment")
def test_storage_names_its_driver_and_logs_are_on_s3(tmp_path: Path) -> None:
    instance = _open("local", tmp_path)
    data = instance.storage_data

    assert data is not None
    config: Any = data.config_dict
    assert data.class_name == "DagsterPostgresStorage"
    assert config["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert instance.compute_logs_data.class_name == "S3ComputeLogManager"


def test_files_differ_in_their_launcher_only() -> None:
    files = [load(f"dagster/{engine}.yaml") for engine in ENGINES]

    assert all(file | {"run_launcher": None} == files[0] | {"run_launcher": None} for file in files)


@pytest.mark.usefixtures("environment")
def test_celery_worker_reads_the_broker_of_the_launcher(tmp_path: Path) -> None:
    worker = pytest.importorskip("dagster_celery.app").app.conf

    launcher: Any = _open("celery", tmp_path).run_launcher
    assert (worker.broker_url, worker.result_backend) == (launcher.broker, launcher.backend)
    command = own_services()["celery_worker"]["command"]
    assert command[command.index("--queues") + 1] == launcher.default_queue
