"""deploy/compose.yaml: what it starts exists, and what it sets is read."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.cli.serve import command as serve
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets_tests.deploy.files import (
    COMPOSE_ENGINES,
    DEPLOY,
    ROOT,
    environment_references,
    load,
    own_services,
    services,
)

# The keys of the Compose specification that the file uses.
_SERVICE_KEYS = {
    *("image", "build", "init", "restart", "security_opt", "cap_drop", "environment", "volumes"),
    *("command", "entrypoint", "ports", "depends_on", "healthcheck", "profiles", "shm_size"),
    *("logging", "stop_grace_period"),
}
_ENDS = {"buckets"}


@pytest.mark.parametrize("name", services())
def test_service_is_complete(name: str) -> None:
    service = services()[name]

    assert set(service) <= _SERVICE_KEYS
    image = service["image"].partition(":")[0]
    assert "." not in image  # no host of a registry before the name
    assert service["restart"] == ("no" if name in _ENDS else "unless-stopped")
    if name not in _ENDS:
        health = service["healthcheck"]
        assert set(health) <= {"test", "interval", "timeout", "start_period", "retries"}
        assert health["test"][0] == "CMD"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    assert set(service.get("profiles", ())) <= set(COMPOSE_ENGINES)


def test_services_for_everything_are_declared() -> None:
    assert set(services()) == {
        *("postgres", "s3", "buckets", "code_location", "webserver", "daemon", "serve"),
        *("redis", "celery_worker", "ray_head", "ray_worker"),
    }


@pytest.mark.parametrize("name", services())
def test_service_waits_for_services_that_are_started_and_tell_their_health(name: str) -> None:
    service = services()[name]
    for other, condition in service.get("depends_on", {}).items():
        assert set(services()[other].get("profiles", ())) <= set(service.get("profiles", ()))
        ends = {"condition": "service_completed_successfully"}
        assert condition == (ends if other in _ENDS else {"condition": "service_healthy"})


@pytest.mark.parametrize("engine", COMPOSE_ENGINES)
@pytest.mark.parametrize("name", services())
def test_volumes_are_declared_or_files_of_every_engine(name: str, engine: str) -> None:
    for volume in services()[name].get("volumes", ()):
        source = volume.replace("${COMPOSE_PROFILES:-local}", engine).partition(":")[0]
        assert (DEPLOY / source).is_file() or source in load("compose.yaml")["volumes"]


def test_every_variable_of_the_shell_has_a_default_or_is_in_the_example() -> None:
    example = {
        line.partition("=")[0]
        for line in (DEPLOY / ".env.example").read_text().splitlines()
        if not line.startswith("#")
    }
    used = re.findall(r"(?<!\$)\$\{(\w+)(:[-?])?", (DEPLOY / "compose.yaml").read_text())

    assert {name for name, kind in used if kind != ":-"} <= example
    assert example <= {name for name, _ in used}


@pytest.mark.parametrize("name", own_services())
def test_variables_of_this_project_are_read_by_its_code(name: str) -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "imgsim_assets").rglob("*.py"))
    read = set(re.findall(r"\"(IMGSIM_[A-Z_]+)\"", source))
    read |= {f"IMGSIM_SERVE_{key.upper()}" for key in ServeSettings.model_fields}

    own = {key for key in own_services()[name]["environment"] if key.startswith("IMGSIM_")}
    assert "IMGSIM_STORE" in own
    assert own <= read


@pytest.mark.parametrize("name", own_services())
@pytest.mark.parametrize("engine", COMPOSE_ENGINES)
def test_variables_that_dagster_reads_are_set(name: str, engine: str) -> None:
    read = environment_references(load(f"dagster/{engine}.yaml"))

    assert read <= set(own_services()[name]["environment"])


def test_celery_worker_has_the_time_to_end_its_run_before_it_stops() -> None:
    hours = re.fullmatch(r"(\d+)h", services()["celery_worker"]["stop_grace_period"])
    longest = load("dagster/celery.yaml")["run_monitoring"]["max_runtime_seconds"]

    assert hours is not None
    assert int(hours[1]) * 3600 >= longest


def test_cluster_that_runs_the_code_of_others_asks_for_a_token() -> None:
    for name in ("daemon", "webserver", "code_location", "ray_head", "ray_worker"):
        environment = services()[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == "${RAY_AUTH_TOKEN:-}"


@pytest.mark.slow
@pytest.mark.parametrize("engine", COMPOSE_ENGINES)
def test_docker_compose_reads_the_file(engine: str, tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False).returncode:
        pytest.skip("Docker Compose is not installed")
    example = (DEPLOY / ".env.example").read_text()
    variables = tmp_path / "env"
    variables.write_text(re.sub(r"=$", "=secret", example, flags=re.MULTILINE))

    files = ["--file", str(DEPLOY / "compose.yaml"), "--env-file", str(variables)]
    command = [docker, "compose", *files, "--profile", engine, "config", "--quiet"]
    subprocess.run(command, check=True, timeout=120)


def test_imgsim_serve_takes_its_options() -> None:
    program, name, *arguments = services()["serve"]["command"]
    assert (program, name) == ("imgsim", "serve")

    values = serve.make_context(name, arguments, resilient_parsing=True).params

    assert (values["host"], values["port"]) == ("0.0.0.0", 8400)


def test_ports_of_healthchecks_and_of_the_workspace_are_those_that_are_served() -> None:
    ports = {"code_location": "4000", "webserver": "3000", "serve": "8400"}
    for name, port in ports.items():
        assert port in services()[name]["command"]
        assert port in str(services()[name]["healthcheck"]["test"])
    server: dict[str, Any] = load("workspace.yaml")["load_from"][0]["grpc_server"]
    assert server == {"host": "code_location", "port": 4000, "location_name": "imgsim_assets"}


@pytest.mark.slow
@pytest.mark.parametrize("name", own_services())
def test_command_and_its_options_exist(name: str) -> None:
    command = services()[name]["command"]
    assert command[0] in {script.name for script in entry_points(group="console_scripts")}
    # The options of Celery itself stand before its command.
    text = _help(command[:1]) if command[0] == "celery" else ""
    text += _help(_words(command))
    for option in (word.partition("=")[0] for word in command if word.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", text), option
    for word in command:
        if word.endswith(".yaml"):
            assert (ROOT / word).is_file()


def _words(command: list[str]) -> list[str]:
    """The program with its subcommands."""
    if command[0] == "celery":
        return ["celery", "worker"]
    return list(itertools.takewhile(lambda word: not word.startswith("-"), command))


def _help(path: list[str]) -> str:
    program = Path(sys.executable).with_name(path[0])
    done = subprocess.run(
        [program, *path[1:], "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout
