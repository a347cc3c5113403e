"""A slot in a second pool, for that part of a step which needs one.

Dagster gives a step the slot of one pool before it starts. A step that fetches and embeds
starts with the network's, and asks for the card's when there is something to embed. Steps that
hold one slot only never wait for another, so that nobody can wait for each other in a circle.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import dagster as dg

from imgsim_assets.encoders.stage import StoppedError

_LOOK_AGAIN_SECONDS = 0.5


class PoolSlot:
    """A slot in a pool that is claimed when it is needed, and freed with the context.

    Setting `stop` ends the waiting. A run that dies gives its slots back as any run does, by
    Dagster's run monitoring.
    """

    def __init__(self, context: dg.AssetExecutionContext, pool: str, stop: threading.Event) -> None:
        # Not public: should it move, only the runs that stream fail, not every load.
        from dagster._core.execution.plan.instance_concurrency_context import (
            InstanceConcurrencyContext,
        )

        self._context = context
        self._pool = pool
        self._stop = stop
        # Slots are freed by run and step, and the step's own must outlast this one.
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
        """Wait for the slot and take it; one that is held already is kept.

        Raises StoppedError when it is to wait no longer.
        """
        waits = False
        while not self._is_held:
            if self._stop.is_set():
                raise StoppedError
            self._is_held = self._claims.claim(self._pool, self._holder)
            if not self._is_held:
                if not waits:
                    self._context.log.info(f"waiting for a slot in the pool {self._pool}")
                waits = True
                self._stop.wait(_LOOK_AGAIN_SECONDS)
