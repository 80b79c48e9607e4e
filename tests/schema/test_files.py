"""Opening raw logs: every format gives the same rows, every fault gives one message."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from userbert.errors import SourceError
from userbert.schema.files import columns_of, expand, locating_faults, scan

Compress = Callable[[bytes], bytes]
CSV = b"user,time,price\n1,2020-01-01,3.5\n2,2020-01-02,\n"
JSON = b'{"user":"1","time":"2020-01-01","price":"3.5"}\n{"user":"2","time":"2020-01-02"}\n'
ROWS = [("1", "2020-01-01", "3.5"), ("2", "2020-01-02", None)]


def zstd(content: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return bytes(buffer.getvalue())


def read(file: Path) -> pl.DataFrame:
    with locating_faults(file):
        return scan(file).collect(engine="streaming")


def message_of(folder: Path, name: str, content: bytes) -> str:
    file = folder / name
    file.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        read(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert message.endswith(".")
    for internals in ("infer_schema", "ignore_errors", "polars", "dtype"):
        assert internals not in message
    return message.removeprefix(str(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", CSV),
        ("LOG.CSV", CSV),
        ("log.tsv", CSV.replace(b",", b"\t")),
        ("log.jsonl", JSON),
        ("log.ndjson", JSON),
        ("crlf.csv", CSV.replace(b"\n", b"\r\n")),
        ("crlf.jsonl", JSON.replace(b"\n", b"\r\n")),
        ("mark.csv", b"\xef\xbb\xbf" + CSV),
        ("log.v2[1]*.csv", CSV),
        ("log.v2[1]*.jsonl", JSON),
    ],
)
@pytest.mark.parametrize("compress", [None, gzip.compress, zstd])
def test_every_text_format_gives_the_same_rows(
    tmp_path: Path, name: str, content: bytes, compress: Compress | None
) -> None:
    ending = "" if compress is None else ".gz" if compress is gzip.compress else ".zst"
    file = tmp_path / f"{name}{ending}"
    file.write_bytes(compress(content) if compress else content)
    assert read(file).rows() == ROWS


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "price": [0.5, None]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet").equals(frame)


def test_extension_types_of_parquet_are_read_as_their_storage_type(tmp_path: Path) -> None:
    kind = pl.Extension("shop.grade", pl.Int64)
    pl.DataFrame({"a": pl.Series([1, 2]).ext.to(kind), "b": "x"}).write_parquet(
        tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet").rows() == [(1, "x"), (2, "x")]


def test_all_members_of_a_gzip_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV) + gzip.compress(b"3,4,5\n", mtime=0))
    assert read(tmp_path / "log.csv.gz").height == 3


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"user,time\n")
    assert read(tmp_path / "log.csv").schema == {"user": pl.String, "time": pl.String}


def test_csv_columns_are_strings_without_change(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"user,zip\n007,01000\n")
    assert read(tmp_path / "log.csv").rows() == [("007", "01000")]


@pytest.mark.parametrize("separator", ";\t|,")
@pytest.mark.parametrize("name", ["log.csv", "log.tsv.gz"])
def test_separator_is_detected_in_the_header(tmp_path: Path, name: str, separator: str) -> None:
    content = CSV.replace(b",", separator.encode())
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path / name).rows() == ROWS


def test_commas_are_decimal_in_files_with_semicolons(tmp_path: Path) -> None:
    written = ["1,5", "-1.234,5", "+1.234.567,25", "1.5", "1,2,3", "a,5", " 7,0 ", "12.34,5", ""]
    (tmp_path / "log.csv").write_text("a;b\n" + "".join(f"x;{number}\n" for number in written))
    (tmp_path / "log.tsv").write_text("a\tb\nx\t1,5\n")
    assert read(tmp_path / "log.csv")["b"].to_list() == [
        "1.5", "-1234.5", "+1234567.25", "1.5", "1,2,3", "a,5", "7.0", "12.34,5", None,
    ]  # fmt: skip
    assert read(tmp_path / "log.tsv")["b"].to_list() == ["1,5"]


def test_last_line_without_a_line_break_is_read(tmp_path: Path) -> None:
    for content in (b"a,b\n1,2\n3,4", b"a,b,c\n1,2\n3,4", b'a,b\n1,2\n3,"4\n5"'):
        (tmp_path / "log.csv").write_bytes(content)
        assert read(tmp_path / "log.csv").height == 2


def test_json_types_are_inferred_from_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"a":1,"b":1,"n":null}\n' * 2000 + b'{"a":"x","b":0.5}\n')
    frame = read(file)
    assert frame.schema == {"a": pl.String, "b": pl.Float64, "n": pl.String}
    assert frame.row(0) == ("1", 1.0, None)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("log.csv", b"", "empty file"),
        ("log.jsonl", b"", "empty file"),
        ("log.csv.gz", gzip.compress(b"", mtime=0), "found no text"),
        ("log.jsonl", b"\n\n", "found none"),
        ("log.parquet", b"", "empty file"),
        ("log.parquet", b"PAR1 something else PAR1", "a complete Parquet file"),
        ("log.csv", "user,name\n1,caf\xe9\n".encode("latin1"), ", line 2: expected UTF-8"),
        ("log.jsonl", '{"n":"caf\xe9"}\n'.encode("latin1"), ", line 1: expected UTF-8"),
        ("log.csv", CSV.decode().encode("utf-16"), "found UTF-16. Convert it: iconv -f UTF-16"),
        ("log.csv", CSV.decode().encode("utf-16-le"), "found zero bytes"),
        ("log.csv", random.Random(1).randbytes(5000), ", line 1: expected UTF-8"),
        ("log.csv.gz", random.Random(1).randbytes(5000), "expected complete gzip data"),
        ("log.jsonl", random.Random(1).randbytes(5000), "expected UTF-8"),
        ("log.jsonl", b"\xef\xbb\xbf" + JSON, "byte order mark"),
        ("log.csv", b"\n\n", "found no text"),
        ("log.csv", b"a,b,a\n1,2,3\n", "the column 'a' appears twice"),
        ("log.csv", b"a,a,a_duplicated_0\n1,2,3\n", "the column 'a' appears twice"),
        ("log.csv", b"a,b\r1,2\r3,4\r", r", line 1: expected lines that end in \n or \r\n"),
        ("log.csv", b"a;b\n1;2\n1;2;3\n", ", line 3: expected 2 fields as in the header, found 3"),
        ("log.csv", b"a,b,c\n1,2,3\n4,5", "found 2 and no line break: the file is cut off"),
        ("log.csv", b"a,b\n1,2\n1,2,3\n", ", line 3: expected 2 fields as in the header, found 3"),
        ("log.csv", b'a,b\n1,2\n3,"x\n4,5\n', ", line 3: expected quotes in pairs"),
        ("log.csv", b'a,b\n1,2\n3,x"y\n4,5\n', ", line 3: expected quotes in pairs"),
        ("log.jsonl", JSON + b'{"user": 3,\n' + JSON, ", line 3: expected one JSON object"),
        ("log.jsonl", JSON + b'{"user": NaN}\n', ", line 3: expected JSON, which has no NaN"),
        ("log.jsonl", b'[{"user": 1}]\n', ", line 1: expected one JSON object"),
        ("log.jsonl", b'{"a": true}\n\n{"a": 1}\n',
         ', line 3: column "a": expected true or false as in line 1, found a number'),
        ("log.jsonl", b'{"a": 1}\n{"a": 1e999}\n', ', line 2: column "a": expected a number of 64'),
        ("log.txt", CSV, "expected a name that ends in .csv"),
        ("log", CSV, "expected a name that ends in .csv"),
        ("log.csv.bz2", CSV, "expected a name that ends in .csv"),
        ("log.parquet.gz", CSV, "found one inside gzip data. Decompress it"),
    ],
)  # fmt: skip
def test_unreadable_file_gives_a_message_of_one_line(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    message = message_of(tmp_path, name, content)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("name", ["log.csv.gz", "log.csv.zst", "log.jsonl.gz", "log.jsonl.zst"])
def test_compressed_data_that_is_cut_off_is_reported(
    tmp_path: Path, name: str, share: float
) -> None:
    content = CSV if "csv" in name else JSON
    noise = random.Random(2).randbytes(50_000).hex().encode()
    long = content + content.splitlines()[-1].replace(b"2020", noise) + b"\n"
    complete = gzip.compress(long) if name.endswith("gz") else zstd(long)
    message = message_of(tmp_path, name, complete[: int(len(complete) * share)])
    assert "cut off or damaged" in message


def test_gzip_file_without_its_checksum_is_reported(tmp_path: Path) -> None:
    assert "cut off or damaged" in message_of(tmp_path, "log.csv.gz", gzip.compress(CSV)[:-4])


def test_damaged_parquet_pages_are_reported_when_rows_are_read(tmp_path: Path) -> None:
    values = random.Random(3).choices(range(10**9), k=10_000)
    pl.DataFrame({"a": [str(value) for value in values]}).write_parquet(tmp_path / "good.parquet")
    content = bytearray((tmp_path / "good.parquet").read_bytes())
    content[5000:5100] = bytes(100)
    assert "damaged" in message_of(tmp_path, "bad.parquet", bytes(content))


def test_damaged_file_is_named_among_several(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_bytes(CSV)
    bad.write_bytes(CSV + b"1,2,3,4\n")
    with pytest.raises(SourceError, match=r"bad\.csv, line 4"), locating_faults(good, bad):
        pl.concat([scan(good), scan(bad)]).collect()


def test_damage_in_only_some_columns_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_bytes(b'a b" "c,d\n,e f"\n0\n')
    with (
        pytest.raises(SourceError, match=r"log\.csv, line 1: expected quotes"),
        locating_faults(file),
    ):
        raise pl.exceptions.ComputeError("CSV malformed")


def test_error_without_a_damaged_file_is_raised_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_bytes(CSV)
    with pytest.raises(pl.exceptions.InvalidOperationError), locating_faults(file):
        scan(file).select(pl.col("time").cast(pl.Int64)).collect()
    with pytest.raises(OSError, match="disk"), locating_faults(file):
        raise OSError("disk full")


def test_file_folder_pattern_and_list_are_expanded_in_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "part/c.csv", "part/_SUCCESS", "part/.c.csv.crc", "_old/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CSV)
    a, b, c = (tmp_path / name for name in ("a.csv", "b.csv", "part/c.csv"))
    assert expand("a.csv", tmp_path) == [a]
    assert expand(str(a), Path("/elsewhere")) == [a]
    assert expand(".", tmp_path) == [a, b, c]
    assert expand("*.csv", tmp_path) == [a, b]
    assert expand("p*", tmp_path) == [c]
    assert expand(["b.csv", "*.csv"], tmp_path) == [b, a]


def test_file_in_a_folder_that_is_not_a_log_is_reported_when_scanned(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_bytes(b"x")
    with pytest.raises(SourceError, match="exclude it with a pattern"):
        [scan(file) for file in expand(".", tmp_path)]


@pytest.mark.parametrize("pattern", ["nothing.csv", "nothing/*.csv"])
def test_missing_path_is_reported_with_its_folder(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(SourceError, match="does not exist") as caught:
        expand(pattern, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_empty_folder_and_missing_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(SourceError, match="found no file in it"):
        expand("logs", tmp_path)
    with pytest.raises(SourceError, match="No such file"):
        scan(tmp_path / "gone.csv")
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(SourceError, match="found a folder"):
        scan(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_row_count_equals_the_number_of_rows_read(tmp_path: Path, name: str) -> None:
    content = b'user,note\n1,"two\nlines, and ""quotes"""\n\n2,x\r\n3,' + b"\n"
    file = tmp_path / name
    file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    count = scan(file).select(pl.len()).collect(engine="streaming").item()
    assert count == read(file).height
    assert columns_of(scan(file), file) == {"user": pl.String, "note": pl.String}


def test_error_of_a_frame_in_memory_is_raised_unchanged() -> None:
    with pytest.raises(OSError, match="disk"), locating_faults("frame 'log'"):
        raise OSError("disk full")


@pytest.mark.parametrize("form", ["csv", "parquet", "ndjson"])
def test_partition_folders_add_columns(tmp_path: Path, form: str) -> None:
    folder = (
        tmp_path
        / "x=1"
        / "logs"
        / "dt=2020-01-01"
        / "who=a%20b"
        / "none=__HIVE_DEFAULT_PARTITION__"
    )
    folder.mkdir(parents=True)
    (folder / "user=9").mkdir()
    log = pl.DataFrame({"user": ["1", "2"]})
    file = folder / "user=9" / f"log.{form}"
    getattr(log, f"write_{form}")(file)
    assert read(file).rows(named=True) == [
        {"user": user, "none": None, "who": "a b", "dt": "2020-01-01"} for user in ("1", "2")
    ]
    assert set(columns_of(scan(file), file)) == {"user", "none", "who", "dt"}
