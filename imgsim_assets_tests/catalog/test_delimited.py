from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.delimited import (
    MAX_RECORD_LINES,
    Dialect,
    Record,
    Shape,
    records,
)
from imgsim_assets.catalog.dialect import detect_delimiter
from imgsim_assets.catalog.text import INVALID_TEXT, open_text

DELIMITERS = ",;\t|"
COMMA = Dialect(",")


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_delimiter_is_detected(delimiter: str) -> None:
    lines = [
        delimiter.join(row) + "\n"
        for row in (["id", "url", "name"], ["1", "http://x/a.jpg", "chair"])
    ]

    assert detect_delimiter(lines, '"') == delimiter


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        (["id;price;url\n", "1;1,50;http://x/1\n", "2;2,75;http://x/2\n"], ";"),
        (["id;url\n", "1;http://x/a,b,c.jpg\n"], ";"),
        (["id\tname, short\turl\n", "1\ta, b, c\tu\n", "2\td\tu\n"], "\t"),
        (['id;"size, cm";url\n', '1;"10, 20, 30";u\n'], ";"),
        (['"id"|"tags"\n', '"1"|"a;b;c"\n', '"2"|"a;b"\n'], "|"),
    ],
    ids=[
        "decimal commas",
        "commas in urls",
        "commas in text",
        "quoted commas",
        "quoted semicolons",
    ],
)
def test_delimiter_detection_ignores_delimiters_inside_fields(
    lines: Sequence[str], delimiter: str
) -> None:
    assert detect_delimiter(lines, '"') == delimiter


def test_delimiter_detection_handles_multiline_fields() -> None:
    lines = [
        '"id";"text";"url"\n',
        '"1";"Chair\n',
        "oak, solid\n",
        "light, small\n",
        "round, high\n",
        'old, used";"u1"\n',
        '"2";"Table";"u2"\n',
    ]

    assert detect_delimiter(lines, '"') == ";"


def test_single_column_is_detected_as_comma_separated() -> None:
    assert detect_delimiter(["url\n", "http://x/1\n", "http://x/2\n"], '"') == ","
    assert detect_delimiter([], '"') == ","


def test_delimiter_detection_ignores_a_broken_line() -> None:
    lines = ["id;url\n", '1;"http://x/1\n', "2;http://x/2\n", "3;http://x/3;extra\n"]

    assert detect_delimiter(lines, '"') == ";"


def test_quotes_in_the_first_row_do_not_affect_other_rows() -> None:
    result = parse('id,name,url\n1,"a, b",u1\n2,c,u2\n', width=3)

    assert [record.fields for record in result] == [
        ["id", "name", "url"],
        ["1", "a, b", "u1"],
        ["2", "c", "u2"],
    ]


def test_multiline_field_keeps_line_numbers_of_later_records() -> None:
    result = parse('1,"first\nsecond\n\nfourth",u1\n2,b,u2\n', width=3)

    assert [(record.line, record.fields[1]) for record in result] == [
        (1, "first\nsecond\n\nfourth"),
        (5, "b"),
    ]


def test_blank_lines_are_skipped_but_counted() -> None:
    result = parse("\n\n1,a\n\n\r\n2,b\n", width=2)

    assert [(record.line, record.fields) for record in result] == [(3, ["1", "a"]), (6, ["2", "b"])]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_are_supported(end: str) -> None:
    result = parse(end.join(["1,a", '2,"b"', "3,c"]), width=2)

    assert [(record.line, record.fields[1]) for record in result] == [(1, "a"), (2, "b"), (3, "c")]


def test_doubled_quote_is_a_quote() -> None:
    assert parse('1,"19"" rack"\n')[0].fields == ["1", '19" rack']


def test_quote_inside_an_unquoted_field_is_kept() -> None:
    assert parse('1,19" rack\n')[0].fields == ["1", '19" rack']


def test_quote_character_can_be_declared() -> None:
    assert parse("1,'a, \"b\"'\n", dialect=Dialect(",", "'"))[0].fields == ["1", 'a, "b"']


def test_empty_quote_character_disables_quoting() -> None:
    result = parse('1,"open\n2,"x"\n', dialect=Dialect(",", ""), width=2)

    assert [record.fields for record in result] == [["1", '"open'], ["2", '"x"']]


@pytest.mark.parametrize("rest", ["2,b\n3,c\n", '2,"b"\n3,c\n', "2,b\n3,c"])
def test_unclosed_quote_affects_only_its_line(rest: str) -> None:
    result = parse('1,"open\n' + rest, width=2)

    assert [(record.line, record.problem is None) for record in result] == [
        (1, False),
        (2, True),
        (3, True),
    ]
    assert result[0].text == '1,"open'
    assert "quote" in str(result[0].problem)


def test_unclosed_quote_on_the_last_line_is_reported() -> None:
    result = parse('1,a\n2,"b', width=2)

    assert (result[1].line, result[1].problem) == (2, "a quote is opened and never closed")


def test_text_after_a_closing_quote_says_how_to_fix_it() -> None:
    (record,) = parse('1,"a"b\n', width=2)

    assert record.problem == 'text after a closing quote " (a quote inside must be doubled)'


@pytest.mark.parametrize(("line", "count"), [("2\n", 1), ("2,b,c,d\n", 4)])
def test_ragged_line_reports_both_field_counts(line: str, count: int) -> None:
    result = parse("1,a,x\n" + line + "3,c,z\n", width=3)

    assert str(result[1].problem).startswith(f"{count} fields where 3 are expected")
    assert [record.fields for record in result if not record.problem] == [
        ["1", "a", "x"],
        ["3", "c", "z"],
    ]


def test_lines_of_a_broken_multiline_record_are_parsed_again() -> None:
    result = parse('1,"x\n2,b\n3",c,d\n4,e\n', width=2)

    assert [(record.line, record.fields) for record in result if not record.problem] == [
        (2, ["2", "b"]),
        (4, ["4", "e"]),
    ]


def test_unclosed_quote_in_a_long_file_affects_one_line() -> None:
    lines = [f"{number},name {number}\n" for number in range(1, 3 * MAX_RECORD_LINES)]
    lines[9] = '10,"name 10\n'

    result = parse("".join(lines), width=2)

    assert [record.line for record in result if record.problem] == [10]
    assert len(result) == len(lines)


def test_unclosed_quote_on_every_line_rejects_each_line() -> None:
    count = 5_000
    text = "".join(f'{number},"open, {number}\n' for number in range(count))

    result = parse(text, width=2)

    assert [record.line for record in result] == list(range(1, count + 1))
    assert all(record.problem for record in result)


def test_oversized_field_affects_only_its_line() -> None:
    result = parse(f"1,a\n2,{'x' * 200_000}\n3,c\n", width=2)

    assert [(record.line, record.problem is None) for record in result] == [
        (1, True),
        (2, False),
        (3, True),
    ]


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le-marked", "utf-16-be-marked"]
)
def test_byte_order_mark_overrides_the_encoding(encoding: str) -> None:
    text = '"id","naïve"\r\n"1","é"\r\n'
    if encoding.endswith("-marked"):
        body = ("\ufeff" + text).encode(encoding.removesuffix("-marked"))
    else:
        body = text.encode(encoding)

    result = parse(body, encoding="cp1252")

    assert [record.fields for record in result] == [["id", "naïve"], ["1", "é"]]


@pytest.mark.parametrize("encoding", ["utf-16-le", "cp1252", "latin-1", "shift_jis"])
def test_declared_encoding_is_used_without_a_byte_order_mark(encoding: str) -> None:
    word = "カタログ" if encoding == "shift_jis" else "Möbel"

    assert parse(f"1,{word}\n".encode(encoding), encoding=encoding)[0].fields == ["1", word]


def test_file_shorter_than_a_byte_order_mark_is_read() -> None:
    assert parse(b"") == []
    assert parse(b"a")[0].fields == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_replacement_character_is_valid_text(encoding: str) -> None:
    (record,) = parse("1,caf\ufffd\n".encode(encoding), encoding=encoding, width=2)

    assert (record.problem, record.fields) == (None, ["1", "caf\ufffd"])


def test_invalid_utf8_affects_only_its_line() -> None:
    result = parse(b"1,a\n2,caf\xe9\n3,c\n", width=2)

    assert [(record.line, record.problem) for record in result] == [
        (1, None),
        (2, INVALID_TEXT),
        (3, None),
    ]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("utf_8", b"1,a\n2,caf\xe9\n3,c\n"),
        ("ascii", b"1,a\n2,caf\xe9\n3,c\n"),
        ("cp1252", b"1,a\n2,caf\x81\n3,c\n"),
        ("shift_jis", b"1,a\n2,caf\x81\n3,c\n"),
        ("gb18030", b"1,a\n2,caf\x81\x30\n3,c\n"),
        ("utf-7", b"1,a\n2,caf\xe9\n3,c\n"),
        ("utf-16", "1,a\n2,caf\udc00\n3,c\n".encode("utf-16", "surrogatepass")),
        ("utf-16-le", "1,a\n2,caf\ud800\n3,c\n".encode("utf-16-le", "surrogatepass")),
        ("utf-32", "1,a\n2,caf\ud800\n3,c\n".encode("utf-32", "surrogatepass")),
    ],
)
def test_invalid_bytes_affect_only_their_line_in_every_encoding(encoding: str, body: bytes) -> None:
    result = parse(body, encoding=encoding, width=2)

    assert [record.line for record in result if record.problem] == [2]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_line_is_rejected_and_other_lines_keep_their_numbers(
    data: st.DataObject,
) -> None:
    delimiter = data.draw(st.sampled_from(DELIMITERS), label="delimiter")
    end = data.draw(st.sampled_from(["\n", "\r\n"]), label="line end")
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), label="quoting")
    rows = data.draw(
        st.lists(st.tuples(_WORD, _WORD, _WORD), min_size=1, max_size=12), label="rows"
    )
    victim = data.draw(st.integers(0, len(rows) - 1), label="victim")
    damage = data.draw(st.sampled_from(sorted(_DAMAGES)), label="damage")
    chunks = [csv_line(row, delimiter, end, quoting) for row in rows]
    first_lines = [1 + "".join(chunks[:index]).count("\n") for index in range(len(rows))]
    body = "".join(chunks[:victim]).encode()
    body += _DAMAGES[damage](delimiter) + end.encode()
    body += "".join(chunks[victim + 1 :]).encode()
    shift = 1 - chunks[victim].count("\n")

    result = parse(body, dialect=Dialect(delimiter), width=3)

    expected = [
        (line + (shift if index > victim else 0), None if index == victim else list(rows[index]))
        for index, line in enumerate(first_lines)
    ]
    assert [
        (record.line, None if record.problem else record.fields) for record in result
    ] == expected


@settings(deadline=None, max_examples=100)
@given(
    delimiter=st.sampled_from(DELIMITERS),
    rows=st.lists(
        st.lists(st.text("abc ,;\t|'é", max_size=8), min_size=3, max_size=3),
        min_size=2,
        max_size=8,
    ),
)
def test_delimiter_of_any_quoted_table_is_detected(
    delimiter: str, rows: Sequence[Sequence[str]]
) -> None:
    text = "".join(csv_line(row, delimiter, "\n", csv.QUOTE_ALL) for row in rows)

    assert detect_delimiter(text.splitlines(keepends=True), '"') == delimiter


# Fields start with a letter, so that an unclosed quote before them is never read as closed.
_WORD = st.builds(str.__add__, st.sampled_from("abcé"), st.text("xy ,;\t|\n\"'é中", max_size=8))

_DAMAGES: dict[str, Callable[[str], bytes]] = {
    "unclosed quote": lambda delimiter: f'v1{delimiter}"v2{delimiter}v3'.encode(),
    "unclosed quote at the end": lambda delimiter: f'v1{delimiter}v2{delimiter}"v3'.encode(),
    "text behind a quote": lambda delimiter: f'v1{delimiter}"v2"x{delimiter}v3'.encode(),
    "missing field": lambda delimiter: f"v1{delimiter}v2".encode(),
    "extra field": lambda delimiter: delimiter.join(["v1", "v2", "v3", "v4"]).encode(),
    "extra delimiter": lambda delimiter: delimiter.join(["v1", "v2", "v3", ""]).encode(),
    "invalid text": lambda delimiter: delimiter.encode().join([b"v1", b"v\xff2", b"v3"]),
    "half a character": lambda delimiter: delimiter.encode().join([b"v1", b"v2", b"v\xc3"]),
}


def csv_line(row: Sequence[str], delimiter: str, end: str, quoting: int) -> str:
    body = io.StringIO(newline="")
    writer = csv.writer(body, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(row)
    return body.getvalue()


def parse(
    text: str | bytes,
    *,
    dialect: Dialect = COMMA,
    width: int | None = None,
    encoding: str = "utf-8",
) -> list[Record]:
    body = text.encode() if isinstance(text, str) else text
    with open_text(io.BytesIO(body), encoding) as lines:
        shape = Shape(width, "reject") if width is not None else None
        return list(records(lines, dialect, shape))
