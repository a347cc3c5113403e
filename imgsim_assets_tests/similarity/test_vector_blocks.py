from __future__ import annotations

import errno
import os
import pickle
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.errors import describe_error
from imgsim_assets.similarity import vector_blocks
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks, cosines
from imgsim_assets_tests.support.blocks import ShuffledParts, small_blocks

ROWS = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)


def _in_memory() -> VectorBlocks:
    return VectorBlocks.of(ROWS)


def _in_a_file(monkeypatch: pytest.MonkeyPatch) -> VectorBlocks:
    with monkeypatch.context() as patch:
        patch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
        blocks = VectorBlocks.from_parts(len(ROWS), ShuffledParts(ROWS))
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
    def parts(rows: Indices | None = None) -> Iterator[Part]:
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
    monkeypatch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
    blocks = VectorBlocks.from_parts(60, _parts).take(np.array([5, 2]))
    blocks.open()

    sent = pickle.dumps(blocks)

    assert len(sent) < ROWS.nbytes
    assert np.array_equal(pickle.loads(sent).all(), ROWS[[5, 2]])


def _parts(rows: Indices | None = None) -> Iterator[Part]:
    return ShuffledParts(ROWS)(rows)


def test_no_vectors_have_no_blocks() -> None:
    nothing = np.empty(0, np.int64)
    for blocks in (VectorBlocks.from_parts(0, ShuffledParts(ROWS)), _in_memory().take(nothing)):
        assert list(blocks.scan()) == []
        assert list(blocks.blocks()) == []
        assert len(blocks.all()) == 0


def test_error_of_a_part_is_raised_again_by_the_next_read() -> None:
    def parts(rows: Indices | None = None) -> Iterator[Part]:
        yield np.arange(1), ROWS[:1]
        raise OSError("no space left")

    blocks = VectorBlocks.from_parts(60, parts)
    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            blocks.read(0, 1)


def test_a_few_rows_are_read_without_the_others() -> None:
    parts = ShuffledParts(ROWS)
    blocks = VectorBlocks.from_parts(60, parts)
    few, fewer = blocks.select(np.array([40, 3, 41])), blocks.slice(20, 60).select(np.array([5]))
    turned = blocks.take(np.arange(60)[::-1]).select(np.array([0, 10]))
    assert parts.read == []

    for _ in range(2):
        assert np.array_equal(few.all(), ROWS[[40, 3, 41]])
        assert np.array_equal(few.take(np.array([2, 0])).all(), ROWS[[41, 40]])
    assert np.array_equal(fewer.all(), ROWS[[25]])
    assert np.array_equal(turned.all(), ROWS[[59, 49]])
    assert sorted(parts.read) == [3, 25, 40, 41, 49, 59]


def test_rows_with_random_access_are_read_alone_up_to_a_quarter_of_all() -> None:
    parts = ShuffledParts(ROWS)
    blocks = VectorBlocks.from_parts(60, parts, random_access=True)

    for numbers, read in (([7, 2, 7], 2), ([9] * 12, 3), ([1], 63), ([5, 6], 63)):
        chosen = np.array(numbers)
        assert np.array_equal(blocks.rows(chosen), ROWS[chosen])
        assert len(parts.read) == read


def test_width_of_rows_with_random_access_is_that_of_one_row() -> None:
    def parts(rows: Indices | None = None) -> Iterator[Part]:
        assert rows is not None
        asked.append(rows.tolist())
        yield rows, ROWS[rows]

    asked: list[list[int]] = []
    blocks = VectorBlocks.from_parts(60, parts, random_access=True)

    assert (blocks.dim, blocks.take(np.array([3, 4])).dim) == (5, 5)
    assert asked == [[0]]


def test_cosines_of_no_pairs_read_no_vectors() -> None:
    parts = ShuffledParts(ROWS)
    none = np.empty(0, np.int64)
    lazy = VectorBlocks.from_parts(60, parts)

    assert len(cosines(lazy, lazy, none, none)) == 0
    assert parts.read == []


def test_many_rows_are_read_with_the_others_and_once() -> None:
    parts = ShuffledParts(ROWS)
    blocks = VectorBlocks.from_parts(60, parts)

    for chosen in (np.arange(0, 60, 2), np.array([7])):
        assert np.array_equal(blocks.select(chosen).all(), ROWS[chosen])
    assert sorted(parts.read) == [*range(60)]


def test_chosen_rows_are_taken_from_rows_that_were_read_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = ShuffledParts(ROWS)
    blocks = VectorBlocks.from_parts(60, parts)
    few = blocks.select(np.array([3, 40, 41]))
    blocks.open()
    monkeypatch.setattr(vector_blocks, "block_bytes", lambda: 2 * 4 * 5)

    assert np.array_equal(few.all(), ROWS[[3, 40, 41]])
    assert len(parts.read) == 60


@given(
    numbers=st.none() | st.sets(st.integers(0, 59), min_size=1).map(sorted),
    part=st.integers(1, 9),
    block=st.integers(1, 70),
)
def test_a_scan_reads_each_row_once_and_copies_nothing(
    numbers: list[int] | None, part: int, block: int
) -> None:
    parts = ShuffledParts(ROWS, part)
    blocks = VectorBlocks.from_parts(60, parts, random_access=True)
    expected = np.arange(60)
    if numbers is not None:
        expected = np.array(numbers)
        blocks = blocks.take(expected)
    with small_blocks(block), pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_blocks, "ScratchRows", _no_scratch)
        found = list(blocks.scan())

    rows = np.concatenate([rows for rows, _ in found])
    assert sorted(rows.tolist()) == [*range(len(expected))]
    assert sorted(parts.read) == expected.tolist()
    for of_block, vectors in found:
        assert len(of_block) <= block
        assert np.all(np.diff(of_block) > 0)
        np.testing.assert_array_equal(vectors, ROWS[expected[of_block]])


def _no_scratch(*_: object) -> None:
    raise AssertionError("a scratch file was made")


def test_a_scan_of_rows_that_fit_in_memory_keeps_them() -> None:
    parts = ShuffledParts(ROWS)
    blocks = VectorBlocks.from_parts(60, parts)

    for _ in range(2):
        ((rows, vectors),) = blocks.scan()
        assert np.array_equal(rows, np.arange(60))
        assert np.array_equal(vectors, ROWS)


@pytest.mark.parametrize("rows", [np.arange(60)[::-1], np.arange(60) // 2])
def test_a_scan_numbers_rows_by_the_order_in_which_they_were_taken(rows: Indices) -> None:
    with small_blocks(7):
        found = list(VectorBlocks.from_parts(60, ShuffledParts(ROWS)).take(rows).scan())

    numbers = np.concatenate([numbers for numbers, _ in found])
    assert sorted(numbers.tolist()) == [*range(60)]
    vectors = np.concatenate([vectors for _, vectors in found])
    np.testing.assert_array_equal(vectors, ROWS[rows][numbers])


@pytest.mark.parametrize("random_access", [False, True])
def test_parts_of_rows_are_scanned_alone_where_that_reads_nothing_twice(
    random_access: bool,
) -> None:
    parts = ShuffledParts(ROWS)
    blocks = VectorBlocks.from_parts(60, parts, random_access=random_access)
    with small_blocks(7):
        for start in range(0, 60, 15):
            for numbers, vectors in blocks.slice(start, start + 15).scan():
                np.testing.assert_array_equal(vectors, ROWS[start + numbers])
            # Without random access the first part reads all.
            assert len(parts.read) == (start + 15 if random_access else 60)
