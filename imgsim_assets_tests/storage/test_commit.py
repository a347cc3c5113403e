from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import CorruptFileError, FormatError
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support import tables

NAME = "products/images"
IDS = [f"item-{number}" for number in range(14)]

# ---- the JSON of commits ----------------------------------------------------------------


def test_a_commit_round_trips_through_its_file(tmp_path: Path) -> None:
    table = Store.open(tmp_path, run_id="run-7").table(NAME, key="id")
    file = (
        table.write_rows(tables.frame({"a": 1}))
        .in_shard(Shard(1, 3))
        .with_metadata(part="p", n=[1, 2])
    )
    other_file = table.write_bytes(b"beside", role="index", suffix=".bin")

    made = table.commit(
        lambda _: PendingCommit(
            [file, other_file], inputs={"images": 4}, properties={"deep": {"er": [None]}}
        )
    )

    read = Store.open(tmp_path).table(NAME).latest()
    assert read == made
    assert read is not None
    assert (read.table, read.version, read.key, read.run_id) == (NAME, 1, "id", "run-7")
    assert read.commit_id not in ("", tables.put(table, {}).commit_id)
    assert (read.inputs, read.properties) == ({"images": 4}, {"deep": {"er": [None]}})
    assert read.file_with_role("index") == other_file
    assert read.file_with_role("no such role") is None
    assert read.rows == 1


def test_a_newer_format_raises_with_an_upgrade_hint(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    path = _commit_path(tmp_path, 1)
    path.write_bytes(tables.resealed({**json.loads(path.read_bytes()), "format": 4}))

    with pytest.raises(FormatError, match=r"products/images .*format 4.*upgrade imgsim_assets"):
        table.latest()


@pytest.mark.parametrize("written", [1, 2, 4])
def test_a_format_without_a_checksum_is_refused_by_its_number(
    written: int, store: Store, tmp_path: Path
) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    path = _commit_path(tmp_path, 1)
    document = {**json.loads(path.read_bytes()), "format": written}
    del document["checksum"]
    path.write_text(json.dumps(document))

    fix = "upgrade imgsim_assets" if written > 3 else "earlier version.*new store"
    with pytest.raises(FormatError, match=f"products/images .*{fix}"):
        table.latest()


def test_every_changed_byte_of_a_commit_is_damage(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    path = _commit_path(tmp_path, 1)
    whole = path.read_bytes()

    for position in range(len(whole)):
        for other in (whole[position] ^ 1, whole[position] ^ 4, ord(" ")):
            if other != whole[position]:
                path.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
                with pytest.raises(CorruptFileError, match=path.name):
                    table.latest()


def test_a_shortened_or_continued_commit_is_damage(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    path = _commit_path(tmp_path, 1)
    whole = path.read_bytes()

    for damaged in (*(whole[:end] for end in range(len(whole))), whole + b"\n", whole + whole):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=path.name):
            table.latest()


def test_a_stored_commit_of_this_format_stays_readable(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "store" / NAME
    (folder / "data").mkdir(parents=True)
    (folder / "_commits").mkdir()
    tables.frame({"a": 1, "b": 2}).write_parquet(folder / "data" / "one.parquet")
    body = (folder / "data" / "one.parquet").read_bytes()
    (folder / "_commits" / "000000000012.json").write_bytes(
        tables.resealed(
            {
                "format": 3,
                "table": NAME,
                "version": 12,
                "commit_id": "0123456789abcdef0123456789abcdef",
                "committed_at": "2026-01-02T03:04:05.678+00:00",
                "run_id": None,
                "key": "id",
                "inputs": {"items": 3},
                "properties": {"refers_to_blobs": True},
                "lost": [],
                "files": [
                    {
                        "path": "data/one.parquet",
                        "bytes": len(body),
                        "sha256": hashlib.sha256(body).hexdigest(),
                        "rows": 2,
                        "role": "rows",
                        "shard": 0,
                        "shard_count": 1,
                        "is_snapshot": True,
                    }
                ],
            }
        )
    )
    table = store.table(NAME, key="id")

    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 1, "b": 2}
    assert tables.put(table, {"a": 3}).version == 13


# ---- shards -----------------------------------------------------------------------------


def test_replacing_a_shard_keeps_the_other_shards(store: Store) -> None:
    table = store.table(NAME, key="id")
    shards = [Shard(index, 3) for index in range(3)]
    content = dict.fromkeys(IDS, 1)
    for shard in shards:
        tables.put_snapshot(table, shard, tables.items_of_shard(content, shard))
    before = tables.latest_commit(table)
    tables.append(table, shards[1], {next(iter(tables.items_of_shard(content, shards[1]))): 5})

    commit = tables.put_snapshot(table, shards[1], {})

    assert commit.files_of_shard(shards[0]) == before.files_of_shard(shards[0])
    assert commit.files_of_shard(shards[2]) == before.files_of_shard(shards[2])
    assert len(commit.files_of_shard(shards[1])) == 1
    assert tables.values(table.read(commit)) == {
        **tables.items_of_shard(content, shards[0]),
        **tables.items_of_shard(content, shards[2]),
    }


def test_a_shard_of_another_shard_count_is_read_across_files(store: Store) -> None:
    table = store.table(NAME, key="id")
    content = {item: number for number, item in enumerate(IDS)}
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    commit = tables.latest_commit(table)

    for shard in (Shard(index, count) for count in (1, 3, 4, 5) for index in range(count)):
        assert tables.values(table.read(commit, shard=shard)) == tables.items_of_shard(
            content, shard
        )


Step = tuple[str, int, dict[str, int]]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "snapshot", "reshard"]),
        st.integers(0, 4),
        st.dictionaries(st.sampled_from(IDS), st.integers(0, 99)),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
@example(
    steps=[
        *(("snapshot", index, dict.fromkeys(IDS, 1)) for index in range(4)),
        ("append", 1, dict.fromkeys(IDS, 2)),
        ("reshard", 0, {}),
        ("append", 2, dict.fromkeys(IDS, 3)),
        ("snapshot", 1, {}),
        ("append", 1, dict.fromkeys(IDS, 4)),
        ("reshard", 2, {}),
        ("append", 4, dict.fromkeys(IDS, 5)),
        ("snapshot", 0, dict.fromkeys(IDS, 6)),
    ]
)
def test_a_keyed_table_behaves_like_a_dict(steps: list[Step]) -> None:
    """The shard count changes only after a snapshot of every shard."""
    table = _in_memory()
    content: dict[str, int] = {}
    count = 4
    for step in steps:
        if step[0] == "reshard":
            for index in range(count):
                tables.put_snapshot(
                    table, Shard(index, count), tables.items_of_shard(content, Shard(index, count))
                )
            assert {file.shard_count for file in tables.latest_commit(table).files} == {count}
            assert len(tables.latest_commit(table).files) == count
            count = 3 + step[1] % 3
        else:
            _apply(table, step, count, content)
        _assert_holds(table, content, [count])


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
@example(
    steps=[
        *(("snapshot", index, dict.fromkeys(IDS, 1)) for index in range(4)),
        ("reshard", 0, {}),
        ("snapshot", 0, {}),
        ("reshard", 2, {}),
        ("snapshot", 0, dict.fromkeys(IDS, 2)),
    ]
)
def test_a_keyed_table_behaves_like_a_dict_across_shard_count_changes(
    steps: list[Step],
) -> None:
    table = _in_memory()
    content: dict[str, int] = {}
    count = 4
    for step in steps:
        if step[0] == "reshard":
            count = 3 + step[1] % 3
        else:
            _apply(table, step, count, content)
        _assert_holds(table, content, [3, 4, 5])


def test_a_removed_row_stays_removed_when_the_shard_count_changes_twice(store: Store) -> None:
    table = store.table(NAME, key="id")
    content = dict.fromkeys(IDS, 1)
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    removed = next(iter(tables.items_of_shard(content, Shard(0, 3))))
    del content[removed]
    tables.put_snapshot(table, Shard(0, 3), tables.items_of_shard(content, Shard(0, 3)))
    assert tables.values(table.read(tables.latest_commit(table))) == content

    other = next(
        s for s in (Shard(0, 5), Shard(1, 5)) if not tables.items_of_shard({removed: 1}, s)
    )
    tables.put_snapshot(table, other, tables.items_of_shard(content, other))

    assert tables.values(table.read(tables.latest_commit(table))) == content


def test_returning_to_a_former_shard_count_keeps_rows_written_between(
    store: Store,
) -> None:
    table = store.table(NAME, key="id")
    content = dict.fromkeys(IDS, 1)
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    content |= dict.fromkeys(tables.items_of_shard(content, Shard(0, 3)), 2)
    tables.put_snapshot(table, Shard(0, 3), tables.items_of_shard(content, Shard(0, 3)))

    tables.put_snapshot(table, Shard(0, 4), tables.items_of_shard(content, Shard(0, 4)))

    assert tables.values(table.read(tables.latest_commit(table))) == content


def test_a_shard_of_the_former_count_lacks_rows_removed_under_the_new_count(
    store: Store,
) -> None:
    table = store.table(NAME, key="id")
    content = dict.fromkeys(IDS, 1)
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    del content[next(iter(tables.items_of_shard(content, Shard(0, 3))))]
    commit = tables.put_snapshot(table, Shard(0, 3), tables.items_of_shard(content, Shard(0, 3)))

    for shard in (Shard(index, 4) for index in range(4)):
        assert tables.values(table.read(commit, shard=shard)) == tables.items_of_shard(
            content, shard
        )


def _in_memory() -> Table:
    return Store.open(f"memory://{uuid.uuid4().hex}").table(NAME, key="id")


def _apply(table: Table, step: Step, count: int, content: dict[str, int]) -> None:
    kind, pick, rows = step
    shard = Shard(pick % count, count)
    shard_rows = tables.items_of_shard(rows, shard)
    if kind == "append":
        tables.append(table, shard, shard_rows)
    else:
        tables.put_snapshot(table, shard, shard_rows)
        for item in tables.items_of_shard(content, shard):
            del content[item]
    content.update(shard_rows)


def _assert_holds(table: Table, content: dict[str, int], counts: list[int]) -> None:
    commit = table.latest()
    if commit is None:
        assert content == {}
        return
    assert tables.values(table.read(commit)) == content
    for shard in (Shard(index, count) for count in counts for index in range(count)):
        assert tables.values(table.read(commit, shard=shard)) == tables.items_of_shard(
            content, shard
        )


def _commit_path(tmp_path: Path, version: int) -> Path:
    return tmp_path / "store" / NAME / "_commits" / f"{version:012d}.json"
