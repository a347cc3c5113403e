"""Which errors of a step Dagster repeats, in real runs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import aiohttp
import dagster as dg
import pytest
from botocore.exceptions import EndpointConnectionError
from yarl import URL

from imgsim_assets.components.retries import is_fault, retry_faults
from imgsim_assets.errors import ComputeError, SourceError, StoreError


def _http_error(status: int) -> aiohttp.ClientResponseError:
    request = aiohttp.RequestInfo(URL("http://a.example"), "GET", {}, URL("http://a.example"))  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(request, (), status=status)


def _caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(),
        OSError(errno.ENOSPC, "no space left"),
        OSError(errno.EIO, "input/output error"),
        aiohttp.ServerDisconnectedError(),
        _http_error(503),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        _caused_by(StoreError("the store did not accept a file"), TimeoutError()),
        _caused_by(SourceError("list.csv cannot be reached"), ConnectionRefusedError()),
    ],
)
def test_faults_of_network_and_store(error: Exception) -> None:
    assert is_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bad value"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        PermissionError(errno.EACCES, "permission denied"),
        _http_error(404),
        SourceError("the source has no usable row"),
        _caused_by(ComputeError("no Ray cluster can be reached"), ConnectionRefusedError()),
    ],
)
def test_errors_that_would_come_again(error: Exception) -> None:
    assert not is_fault(error)


@pytest.mark.parametrize(
    ("error", "attempts"), [(ConnectionResetError(), 3), (SourceError("no usable row"), 1)]
)
@pytest.mark.parametrize("is_generator", [False, True])
def test_only_a_fault_is_repeated(error: Exception, attempts: int, is_generator: bool) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    def generate() -> Iterator[None]:
        fail()
        yield

    step: Callable[[], object] = generate if is_generator else fail
    asset = dg.asset(name="failing", retry_policy=dg.RetryPolicy(max_retries=2))(retry_faults(step))
    result = dg.materialize([asset], raise_on_error=False)

    assert not result.success
    assert len(calls) == attempts
    failure = next(event for event in result.all_events if event.is_step_failure)
    message = failure.step_failure_data.error
    assert message is not None
    assert type(error).__name__ in message.to_string()


def test_an_error_of_the_system_is_a_failure_with_its_fix() -> None:
    def fail() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/store/products")

    asset = dg.asset(name="failing")(retry_faults(fail))
    result = dg.materialize([asset], raise_on_error=False)

    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    assert failure.description is not None
    assert failure.description.startswith("Permission denied: /store/products; give this user")
