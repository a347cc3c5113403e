from __future__ import annotations

import sys
import threading
import types

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from imgsim_assets.similarity import threads
from imgsim_assets.similarity.threads import parallel_map, parallel_slices, single_threaded


def _blas_threads() -> set[int]:
    """Thread counts of the BLAS libraries, without FAISS's own, which NumPy does not use."""
    np.ones((2, 2)) @ np.ones((2, 2))
    blas = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return {each["num_threads"] for each in blas if each["threading_layer"] != "openmp"}


def test_parallel_map_keeps_the_order() -> None:
    assert list(parallel_map(lambda number: number * number, range(100))) == [
        n * n for n in range(100)
    ]


def test_parallel_map_tasks_start_no_threads() -> None:
    before = _blas_threads()

    def work(_: int) -> tuple[set[int], set[int]]:
        used = set()
        parallel_slices(5000, 100, lambda piece: used.add(threading.get_ident()))
        return _blas_threads(), used | {threading.get_ident()}

    for blas, used in parallel_map(work, range(8)):
        assert blas == {1}
        assert len(used) == 1
    assert _blas_threads() == before


def test_parallel_slices_cover_every_row_once_on_several_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "worker_count", lambda: 3)
    counts = np.zeros(5001, np.int64)
    together = threading.Barrier(3)
    waited = threading.local()

    def fill(piece: slice) -> None:
        counts[piece] += 1
        if not hasattr(waited, "once"):
            waited.once = True
            together.wait(30)

    parallel_slices(len(counts), 100, fill)

    assert (counts == 1).all()


def test_blas_threads_are_restored_after_the_last_parallel_map() -> None:
    before = _blas_threads()
    first, second = parallel_map(str, range(3)), parallel_map(str, range(3))
    next(first)
    next(second)

    assert list(first) == ["1", "2"]
    assert _blas_threads() == {1}
    second.close()  # type: ignore[attr-defined]
    assert _blas_threads() == before


def test_blas_threads_are_restored_after_an_error() -> None:
    before = _blas_threads()

    def work(number: int) -> int:
        if number == 3:
            raise ArithmeticError("three")
        return number

    with pytest.raises(ArithmeticError, match="three"):
        list(parallel_map(work, range(8)))

    assert _blas_threads() == before


def test_libraries_are_looked_up_again_after_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []

    def controller() -> ThreadpoolController:
        looked_up.append(True)
        return ThreadpoolController()

    with single_threaded():
        monkeypatch.setattr(threads, "ThreadpoolController", controller)
    with single_threaded():
        assert not looked_up
    monkeypatch.setitem(sys.modules, "imported_meanwhile", types.ModuleType("imported_meanwhile"))
    with single_threaded():
        assert looked_up == [True]
        assert _blas_threads() == {1}


@pytest.mark.parametrize("cores", [1, 3])
def test_threads_do_not_exceed_usable_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    done: list[int] = []
    seen = set()

    def work(piece: slice) -> None:
        seen.add(threading.get_ident())
        done.extend(range(piece.start, piece.stop))

    parallel_slices(4096, 16, work)

    assert sorted(done) == list(range(4096))
    assert len(seen) <= cores
