"""Retries of steps: Dagster repeats a step after a fault of the network or the store only.

Any other error would come again, so that it fails the step at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import dagster as dg

from imgsim_assets.errors import ComputeError, describe_error

C = TypeVar("C", bound=Callable[..., Any])

# After about 20, 40 and 80 seconds.
RETRY_POLICY = dg.RetryPolicy(
    max_retries=3, delay=20, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
_FAULTS = {
    errno.EBUSY,
    errno.EDQUOT,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOSPC,
    errno.ESTALE,
}
# Errors of connections that are no OSError: class names by the module that defines them.
_CONNECTION_ERRORS = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "botocore.exceptions": ("ConnectionError", "HTTPClientError"),
}


def retry_faults(step: C) -> C:
    """Decorate the function of an asset: every error is a Failure, which only faults repeat."""
    if inspect.isgeneratorfunction(step):

        @functools.wraps(step)
        def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _no_retry_of_other_errors():
                yield from step(*args, **kwargs)

        return generate  # type: ignore[return-value]

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _no_retry_of_other_errors():
            return step(*args, **kwargs)

    return call  # type: ignore[return-value]


@contextlib.contextmanager
def _no_retry_of_other_errors() -> Iterator[None]:
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        message = describe_error(error) or str(error) or type(error).__name__
        raise dg.Failure(message, allow_retries=is_fault(error)) from error


def is_fault(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is a fault of the network or the store."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ComputeError):
            return False  # somebody has to start the cluster, or to set its address
        if isinstance(link, ConnectionError | TimeoutError) or _is_connection_error(link):
            return True
        if isinstance(link, OSError) and link.errno in _FAULTS:
            return True
        link = link.__cause__
    return False


def _is_connection_error(error: BaseException) -> bool:
    for module, names in _CONNECTION_ERRORS.items():
        # A module that is not loaded has raised nothing.
        loaded = sys.modules.get(module)
        if loaded and isinstance(error, tuple(getattr(loaded, name) for name in names)):
            return True
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is None or not isinstance(error, aiohttp.ClientResponseError):
        return False
    return bool(error.status == 429 or error.status >= 500)
