"""What is inside a folder or file that userbert wrote, as tables for people.

In: prepared data, a model, a task, an evaluation, labels, vectors or scores. Out: rich tables. The
command line's `inspect` prints them; nothing here needs torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from userbert.data.store import PreparedData
from userbert.data.timeline import WordView, profile_values, timeline
from userbert.errors import InputError
from userbert.folders import read_json
from userbert.schema.files import reading, scan

if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation

_VALUES_SHOWN = 4


def inspect(path: Path, user: str | None = None, cutoff: str | None = None) -> RenderableType:
    """Describe what `path` holds; with `user` (of prepared data), that user's words."""
    if path.is_file():
        with reading(path):
            return _describe_table(path, scan(path).collect())
    if (path / "manifest.json").is_file():
        data = PreparedData.open(path)
        return _describe_data(data) if user is None else _describe_user(data, user, cutoff)
    if (path / "training.json").is_file():
        return _describe_json(path, ("config.json", "training.json"))
    if (path / "report.json").is_file():
        return verdict(read_json(path / "report.json")["rows"])
    if (path / "task.json").is_file():
        return _describe_json(path, ("task.json",))
    if any(path.glob("part-*.parquet")):
        return _describe_table(path, pl.read_parquet(path))
    raise InputError(
        f"{path}: expected prepared data, a model, task or evaluation folder, or a file of labels, "
        "embeddings or scores; found none of these."
    )


def verdict(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out an evaluation's rows: each task's models by its first metric, differences last."""
    table = Table("task", "model", "metric", "mean", "95 % interval")
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        mine = [row for row in mine if row["metric"] == mine[0]["metric"]]
        for row in sorted(mine, key=lambda row: (" " in row["model"], -row["mean"])):
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            table.add_row(task, row["model"], row["metric"], f"{row['mean']:.3f}", interval)
        table.add_section()
    return table


def _describe_data(data: PreparedData) -> RenderableType:
    summary = read_json(data.path / "summary.json")
    about = _table("Prepared data", "", "")
    about.add_row("users", f"{len(data):,}")
    about.add_row("first event", _local(data, data.first_event))
    about.add_row("last event", _local(data, data.last_event))
    about.add_row("vocabularies fitted before", str(data.schema.fit_before or "(all events)"))
    segments = _table("Segments", "segment", "actions", "words", "actions a word")
    for name in data.schema.segments:
        actions, words = summary["actions"][name], summary["words"][name]
        segments.add_row(name, f"{actions:,}", f"{words:,}", f"{actions / max(words, 1):.1f}")
    vocabularies = _table("Vocabularies", "where", "attribute", "values", "the most frequent")
    places = [*data.vocabularies.segments.items(), ("profile", data.vocabularies.profile)]
    for place, attributes in places:
        for name, vocabulary in attributes.items():
            values = vocabulary.names[2:]
            shown = ", ".join(values[:_VALUES_SHOWN])
            vocabularies.add_row(place, name, f"{len(values):,}", shown)
    rows = _table("Rows", "file", "read", "used", "outside segments", "quarantined")
    for name, account in summary["rows"].items():
        counts = ("read", "used", "outside_segments", "quarantined")
        rows.add_row(name, *(f"{account[count]:,}" for count in counts))
    return Group(about, segments, vocabularies, rows, *summary["warnings"])


def _describe_user(data: PreparedData, user: str, cutoff: str | None) -> RenderableType:
    row = int(data.rows_of([user])[0])
    if row < 0:
        raise InputError(f"{data.path} does not know the user {user!r}.")
    instant = data.default_cutoff if cutoff is None else data.schema.instant(cutoff)
    table = _table(
        f"Words of user {user} before {_local(data, instant)}", "word", "begins", "holds"
    )
    for word in timeline(data, row, instant):
        table.add_row(*_word(word))
    fields = profile_values(data, row, instant)
    profile = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return Group(table, f"profile: {profile or '(nothing known)'}")


def moved(explanation: "Explanation", data: PreparedData, most: int) -> RenderableType:
    """Lay out what moved a user's score: the words and fields that did most, and by how much."""
    of_class = "" if explanation.value is None else f" of {explanation.value}"
    title = (
        f"User {explanation.user_id} before {_local(data, explanation.cutoff)}: "
        f"score{of_class} {explanation.score:.3f}"
    )
    words = _table(title, "effect", "word", "begins", "holds", "mostly by")
    for word in explanation.words[:most]:
        by = sorted(word.attributes.items(), key=lambda item: -abs(item[1]))[:2]
        named = ", ".join(f"{name} {effect:+.2g}" for name, effect in by)
        words.add_row(f"{word.effect:+.2g}", *_word(word.word), named)
    fields = _table("Profile", "effect", "field", "value")
    for field in explanation.fields:
        fields.add_row(f"{field.effect:+.2g}", field.name, field.value)
    more = len(explanation.words) - most
    note = (
        f"An effect is how far the output ({explanation.unit}) falls when the word, or the values "
        "of one attribute in it, are left out. Effects need not add up."
    )
    parts: list[RenderableType] = [words]
    if more > 0:
        parts.append(f"… and {more} words that moved it less")
    return Group(*parts, *([fields] if explanation.fields else []), note)


def _word(word: WordView) -> tuple[str, str, str]:
    """Which word it is, when it begins, what it holds."""
    form = "%a %Y-%m-%d" if word.segment == "long_term" else "%a %Y-%m-%d, %H h"
    holds = "; ".join(f"{name}: {_most(values)}" for name, values in word.values.items() if values)
    return f"{word.segment} {word.number}", word.begins.strftime(form), holds


def _most(values: list[tuple[str, int]]) -> str:
    shown = [
        value if count == 1 else f"{value} x{count}" for value, count in values[:_VALUES_SHOWN]
    ]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _describe_table(path: Path, frame: pl.DataFrame) -> RenderableType:
    table = _table(f"{path}: {len(frame):,} rows", "column", "type", "nulls", "examples")
    for column in frame.iter_columns():
        examples = ", ".join(str(value)[:40] for value in column.head(3))
        table.add_row(column.name, str(column.dtype), str(column.null_count()), examples)
    if "label" in frame.columns and frame["label"].dtype != pl.List:
        counts = frame["label"].value_counts(sort=True).head(5).rows()
        return Group(
            table, "labels: " + ", ".join(f"{value} x{count:,}" for value, count in counts)
        )
    return table


def _describe_json(folder: Path, names: tuple[str, ...]) -> RenderableType:
    tables = []
    for name in names:
        if (folder / name).is_file():
            table = _table(name, "", "")
            for key, value in _flat(read_json(folder / name)):
                table.add_row(key, value)
            tables.append(table)
    return Group(*tables)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, str(content)


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", show_header=any(columns))


def _local(data: PreparedData, instant: int) -> str:
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(data.schema.zone)
    return moment.isoformat(sep=" ", timespec="seconds")
