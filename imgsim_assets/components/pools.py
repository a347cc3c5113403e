"""A slot in a second pool, for the part of a step that needs one.

Dagster gives a step a slot of one pool before it starts. A step that fetches and embeds starts
with a slot of the network pool, and claims one of the GPU pool before its first forward pass.
No other step waits for a second slot, so that steps cannot wait for each other in a circle.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import dagster as dg

from imgsim_assets.encoders.stage import StoppedError

_POLL_SECONDS = 0.5


class PoolSlot:
    """A slot in a pool: claimed when it is needed, freed when the context ends.

    Setting `stop` ends the waiting. Dagster's run monitoring frees the slots of a run that dies.
    """

    def __init__(self, context: dg.AssetExecutionContext, pool: str, stop: threading.Event) -> None:
        # Not public API: imported here, so that a change in Dagster fails only pipelined runs.
        from dagster._core.execution.plan.instance_concurrency_context import (
            InstanceConcurrencyContext,
        )

        self._context = context
        self._pool = pool
        self._stop = stop
        # Slots are freed by run and step key; this key leaves the step's own slot alone.
        self._holder = f"{context.op_execution_context.op_handle}.{pool}"
        self._claims = InstanceConcurrencyContext(context.instance, context.run)
        self._is_held = False

    def __enter__(self) -> Self:
        self._claims.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._claims.free_step(self._holder)
        self._claims.__exit__(kind, error, trace)

    def claim(self) -> None:
        """Wait for the slot and take it, unless it is held already.

        Raises:
            StoppedError: when `stop` is set.
        """
        is_waiting = False
        while not self._is_held:
            if self._stop.is_set():
                raise StoppedError
            self._is_held = self._claims.claim(self._pool, self._holder)
            if not self._is_held:
                if not is_waiting:
                    self._context.log.info(f"waiting for a slot in the pool {self._pool}")
                is_waiting = True
                self._stop.wait(_POLL_SECONDS)
