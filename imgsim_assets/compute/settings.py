"""Where a component's tasks run, and what each of them may use."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from imgsim_assets.compute.device import AUTO, require_device_name
from imgsim_assets.compute.memory import DEFAULT_BUDGET, MIN_BUDGET
from imgsim_assets.settings import Settings

# Environment variable: the address of the Ray cluster.
RAY_ADDRESS = "IMGSIM_RAY_ADDRESS"
# The cores of this machine; a cluster of which this machine is a node; a host and its port.
_ADDRESS = re.compile(r"local|auto|(ray://)?([^\s:/\[\]]+|\[[^\s/\[\]]+\]):\d{1,5}")
# What a person may set it to.
ADDRESSES = (
    "host:6379 on a machine of the cluster, ray://host:10001 elsewhere, or local for the cores of "
    "this machine"
)
EngineName = Literal["local", "ray"]
# Keys of what a task of a cluster occupies; a local task has what the process has.
_CLUSTER_KEYS = ("cpus_per_task", "gpus_per_task", "memory_per_task_mib", "retries")


class ComputeSettings(Settings):
    """Where tasks (joins, evaluations, evidence) run; the results are the same everywhere."""

    engine: EngineName = Field(
        "local",
        description=f"local: in the process of the step; ray: on the Ray cluster of {RAY_ADDRESS}",
    )
    device: str = Field(
        AUTO,
        description="of joins: auto (a GPU for large ones, if there is one), cpu, cuda or cuda:N",
    )
    cpus_per_task: int = Field(1, ge=1, le=1024, description="cores that a task occupies and uses")
    gpus_per_task: float = Field(
        0, ge=0, le=16, description="GPUs, or a fraction of one, of a task that can use them"
    )
    memory_per_task_mib: int | None = Field(
        None,
        ge=1,
        description="memory that a node must have free for a task, in MiB; default: what the task "
        "is estimated to need",
    )
    memory_budget_mib: int = Field(
        DEFAULT_BUDGET >> 20,
        ge=MIN_BUDGET >> 20,
        description="memory of a join or an index, in MiB; it changes no result",
    )
    retries: int = Field(
        3, ge=0, le=100, description="how often a task is run again whose worker or node was lost"
    )

    @model_validator(mode="after")
    def _keys_of_a_cluster_need_one(self) -> Self:
        fields = type(self).model_fields
        unused = [key for key in _CLUSTER_KEYS if getattr(self, key) != fields[key].default]
        if self.engine == "local" and unused:
            raise ValueError(
                f"'engine: local' ignores {', '.join(unused)}: set 'engine: ray', or remove it"
            )
        return self

    @model_validator(mode="after")
    def _device_is_one_that_tasks_have(self) -> Self:
        is_gpu = require_device_name(self.device) not in (AUTO, "cpu")
        if is_gpu and self.engine == "ray" and not self.gpus_per_task:
            raise ValueError(
                f"device: {self.device} is hidden from tasks that occupy no GPU; set "
                "'gpus_per_task: 1', or 'device: auto'"
            )
        return self

    @property
    def memory_budget(self) -> int:
        """`memory_budget_mib` in bytes."""
        return self.memory_budget_mib << 20

    def problem(self) -> str | None:
        """Why tasks cannot run there, and what to do; None if nothing is known to be wrong."""
        if self.engine == "local":
            return None
        if importlib.util.find_spec("ray") is None:
            return "ray is not installed; run: pip install 'imgsim_assets[ray]'"
        address = os.environ.get(RAY_ADDRESS)
        if not address:
            return f"the environment variable {RAY_ADDRESS} is not set; set it to {ADDRESSES}"
        if not _ADDRESS.fullmatch(address):
            return f"{RAY_ADDRESS}: {address!r} is no address of a Ray cluster; give {ADDRESSES}"
        return None


def _from_name(value: Any) -> Any:
    return {"engine": value} if isinstance(value, str) else value


# In YAML just the name of the engine is enough.
Compute = Annotated[
    ComputeSettings,
    BeforeValidator(_from_name, json_schema_input_type=EngineName | ComputeSettings),
]
LOCAL = ComputeSettings()
