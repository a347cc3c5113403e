from __future__ import annotations

import errno
import os
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.errors import describe_error
from imgsim_assets.similarity import vector_blocks
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks

ROWS = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)


@dataclass(frozen=True)
class _Parts:
    """Parts of ROWS in no order; counts how often they are read."""

    sizes: tuple[int, ...] = (7, 1, 52)

    def __call__(self) -> Iterator[Part]:
        order = np.random.default_rng(1).permutation(len(ROWS))
        for rows in np.split(order, np.cumsum(self.sizes)[:-1]):
            yield rows, ROWS[rows]


def _in_memory() -> VectorBlocks:
    return VectorBlocks.of(ROWS)


def _in_a_file(monkeypatch: pytest.MonkeyPatch) -> VectorBlocks:
    with monkeypatch.context() as patch:
        patch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
        blocks = VectorBlocks.from_parts(len(ROWS), _Parts())
        blocks.read(0, 1)  # the first read decides where they are
    return blocks


_SOME = st.lists(st.integers(0, 59), max_size=80)
_MOST = st.sets(st.integers(0, 59), min_size=40).map(sorted)


@given(numbers=_SOME | _MOST, cut=st.tuples(*[st.integers(0, 60)] * 2))
def test_rows_are_the_same_in_memory_and_in_a_file(
    numbers: list[int], cut: tuple[int, int]
) -> None:
    start, stop = sorted(cut)
    chosen = np.array(numbers, dtype=np.int64)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for blocks in (_in_memory(), _in_a_file(monkeypatch)):
            taken = blocks.take(chosen)
            assert np.array_equal(blocks.read(start, stop), ROWS[start:stop])
            assert np.array_equal(blocks.rows(chosen), ROWS[chosen])
            assert np.array_equal(taken.all(), ROWS[chosen])
            assert np.array_equal(
                taken.take(np.arange(len(chosen))[::-1]).all(), ROWS[chosen][::-1]
            )


def test_a_full_disk_of_temporary_files_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(OSError, match="No space left") as raised:
        _in_a_file(monkeypatch)

    message = describe_error(raised.value)
    assert message is not None
    assert message.startswith(f"No space left on device: {tempfile.gettempdir()}/imgsim-")
    assert "or choose another folder for temporary files (TMPDIR)" in message


def test_blocks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_blocks, "MAX_BLOCK_ROWS", 16)

    parts = list(_in_a_file(monkeypatch).blocks())

    assert [start for start, _ in parts] == [0, 16, 32, 48]
    assert np.array_equal(np.concatenate([rows for _, rows in parts]), ROWS)


def test_a_block_of_wide_rows_has_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_blocks, "block_bytes", lambda: 5 * 4 * 11)

    assert VectorBlocks.of(ROWS).block_rows == 11


def test_nothing_is_read_before_a_row_is_asked_for() -> None:
    def parts() -> Iterator[Part]:
        reads.append("read")
        yield np.arange(60), ROWS

    reads: list[str] = []
    blocks = VectorBlocks.from_parts(60, parts)
    chosen = blocks.take(np.array([3, 1]))
    assert (len(blocks), len(chosen), reads) == (60, 2, [])

    assert np.array_equal(chosen.all(), ROWS[[3, 1]])
    assert np.array_equal(blocks.all(), ROWS)
    assert reads == ["read"]


def test_another_process_reads_the_vectors_again(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = _in_a_file(monkeypatch).take(np.array([5, 2]))

    sent = pickle.dumps(blocks)

    assert len(sent) < ROWS.nbytes
    assert np.array_equal(pickle.loads(sent).all(), ROWS[[5, 2]])


def test_no_vectors_have_no_blocks() -> None:
    for blocks in (VectorBlocks.from_parts(0, _Parts()), _in_memory().take(np.empty(0, np.int64))):
        assert list(blocks.blocks()) == []
        assert len(blocks.all()) == 0


def test_error_of_a_part_is_raised_again_by_the_next_read() -> None:
    def parts() -> Iterator[Part]:
        yield np.arange(1), ROWS[:1]
        raise OSError("no space left")

    blocks = VectorBlocks.from_parts(60, parts)
    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            blocks.read(0, 1)
