"""The files of deploy/, parsed."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# The engines that compose.yaml starts, by their profile; and the one that it does not.
COMPOSE_ENGINES = ("local", "celery", "ray")
ENGINES = (*COMPOSE_ENGINES, "kubernetes")


@functools.cache
def load(name: str) -> Any:
    """A YAML file of deploy/, which the caller leaves as it is."""
    return yaml.safe_load((DEPLOY / name).read_text())


def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml by name."""
    found: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
    return found


def own_services() -> dict[str, dict[str, Any]]:
    """The services that run the image of this project."""
    return {name: each for name, each in services().items() if each["image"] == "imgsim_assets"}


def environment_references(value: Any) -> set[str]:
    """The variables that Dagster reads by `env:` in a part of a YAML file."""
    if isinstance(value, dict):
        if set(value) == {"env"}:
            return {str(value["env"])}
        return set().union(*map(environment_references, value.values()), set())
    if isinstance(value, list):
        return set().union(*map(environment_references, value), set())
    return set()


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(instruction, rest.strip()) for instruction, _, rest in pairs]
