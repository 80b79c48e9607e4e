"""What a model says of itself: facts for people, and the card that lies in its folder.

In: its `config.json`, `training.json` and schema. Out: facts by name, or `README.md`, which hubs
show as a model's page. `inspect` lays out the same facts. No value of the logs and no user is
named. Whoever shares a folder may edit its card: it is not among the files that are checked.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from userbert.data.batches import INPUT_SHAPE
from userbert.model.indices import timing_width
from userbert.schema.models import Schema

Facts = Mapping[str, str | None]
"""What there is to say by name; nothing is said of those that are none."""

_USE = """```sh
userbert prepare schema.yaml -o data --vocabulary model    # logs, with the ids of this model
userbert embed model data -o embeddings.parquet
```

```python
import userbert as ub

model = ub.UserBert.from_pretrained("model")    # this folder, or its name on a hub
vectors = model.embed(ub.PreparedData.open("data"))
```"""
_LIMITS = (
    "It is about people like those whose logs it learned from, and what these logs held.",
    "Values that it does not know are all *unknown* to it.",
    "Vectors have no unit, and those of two models have nothing in common.",
    "Vectors can tell of people what they never said. Look at whom a decision by them would "
    "leave out, and take none by them alone that weighs on a person.",
    "`vocabularies.json` holds values as they were in the logs, `schema.yaml` the names of files "
    "and columns. Users are in neither, unless an attribute tells of them. Look at both before you "
    "share the folder.",
)


def count_weights(file: Path) -> int:
    """Count the numbers in a safetensors file by its header."""
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        header = json.loads(content.read(length))
    return sum(prod(one["shape"]) for name, one in header.items() if name != "__metadata__")


def network_facts(config: Mapping[str, Any], weights: int) -> Facts:
    """The size of a network of so many weights, and what never went into it."""
    size = config["model"]
    return {
        "network": f"{size['layers']} layers of width {size['hidden']}, {size['heads']} heads",
        "weights": f"{weights:,}",
        "vectors": f"{_width(config):,} numbers, pool={size['pool']}",
        "never saw": ", ".join(config["hidden"]) or None,
    }


def is_pretrained(record: Mapping[str, Any]) -> bool:
    """Whether its weights are other than they were drawn."""
    return "steps" in record.get("config", {})


def pretraining_facts(record: Mapping[str, Any], schema: Schema) -> Facts:
    """From what a pretrained model learned, and for how long."""
    config, earlier = record["config"], record.get("from")
    steps = f"{config['steps']:,} batches of {config.get('batch_size')}"
    users = _with(record, "users", ", {:,} user sequences") or ""
    speed = _with(record, "users_per_s", ", {:,.0f} users a second") or ""
    seconds = _with(record, "seconds", "{:,.0f} s")
    return {
        "preset": record.get("preset"),
        "learned from events before": _moment(record.get("before"), schema),
        "the first of them": _moment(record.get("first_event"), schema),
        "of users with cut-offs of their own": "yes (--at)" if record.get("at") else None,
        "users": _with(record, "people", "{:,}"),
        "pairs of user and cut-off": _with(record, "pairs", "{:,}"),
        "held out": _with(record, "held_out_pairs", "{:,} pairs"),
        "data": _with(record, "data", "{:.12}"),
        "steps": steps + users,
        "time": None if seconds is None else seconds + speed,
        "seed": _with(record, "seed", "{}"),
        "processes": _with(record, "processes", "{}"),
        "precision": record.get("precision"),
        "went on from": None
        if not earlier
        else f"a model of seed {earlier.get('seed')}, "
        f"{earlier.get('config', {}).get('steps', 0):,} steps",
        "new values since": _with(record, "extended_by", "{}"),
        "by": ", ".join(f"{name} {told}" for name, told in record.get("versions", {}).items())
        or None,
    }


def losses(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What each was at the end: its name, of users learned from, of users held out."""
    if "losses" not in record:
        return []
    held_out = record.get("validation") or {}
    whole = {"all together": ("loss", record["loss"])}
    parts = {name: (name, loss) for name, loss in record["losses"].items()}
    return [
        (name, f"{loss:.3f}", f"{held_out[key]:.3f}" if key in held_out else "")
        for name, (key, loss) in (whole | parts).items()
    ]


def inputs(config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What it reads: where, attribute or field, number of ids, table."""
    found = [
        (segment["name"], one["name"], f"{one['size']:,}", one["table"])
        for segment in config["input"]["segments"]
        for one in segment["attributes"]
    ]
    profile = config["input"]["profile"]
    return found + [("profile", one["name"], f"{one['size']:,}", one["table"]) for one in profile]


def model_card(
    config: Mapping[str, Any], record: Mapping[str, Any], schema: Schema, weights: int
) -> str:
    """A model's card, as Markdown with the heading of YAML that hubs read."""
    bound = _moment(record.get("before"), schema)
    sections = {
        "Where it must not be used": _bound(bound),
        "How to use it": _USE,
        "The network": in_rows(network_facts(config, weights)),
        "What it reads": in_columns(
            ("where", "attribute", "ids"), [row[:3] for row in inputs(config)]
        ),
        "Pretraining": in_rows(pretraining_facts(record, schema))
        if is_pretrained(record)
        else "It has not been pretrained: its weights are as they were drawn.",
        "Losses at the end": in_columns(("of", "learned from", "held out"), losses(record)),
        "Limits": "\n".join(f"- {limit}" for limit in _LIMITS),
    }
    about = (
        "This model reads what a user did before an instant, as *behavioral words*, and gives a "
        f"vector of {_width(config):,} numbers. It was pretrained on the words alone, without "
        "labels."
    )
    return card("Vectors of users", about, sections, ("user-embeddings", "self-supervised"))


def card(title: str, about: str, sections: Mapping[str, str], tags: Sequence[str]) -> str:
    """A page of some sections, without those that are empty."""
    head = "\n".join(f"- {tag}" for tag in ("userbert", "event-sequences", *tags))
    parts = [
        f"---\nlibrary_name: userbert\ntags:\n{head}\n---",
        f"# {title}",
        about,
        *(f"## {name}\n\n{text}" for name, text in sections.items() if text),
        f"Written by userbert {version('userbert')}. This page may be edited.",
    ]
    return "\n\n".join(parts) + "\n"


def in_rows(told: Facts) -> str:
    """Facts as a table in Markdown."""
    return in_columns(("", ""), [(name, text) for name, text in told.items() if text is not None])


def in_columns(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a table in Markdown; none of none."""
    lines = [*rows]
    if not lines:
        return ""
    rule = ["---"] * len(heading)
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (heading, rule, *lines))


def _bound(bound: str | None) -> str:
    if bound is None:
        return ""
    return (
        f"It learned from events before **{bound}**. At cut-offs before that its vectors may tell "
        "what came after, so what is judged there by them is not what it will be in use. "
        "`finetune` and `evaluate` refuse such labels."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _with(record: Mapping[str, Any], key: str, form: str) -> str | None:
    """What a record says, if it does: those of earlier versions say less."""
    return None if record.get(key) is None else form.format(record[key])


def _moment(instant: int | None, schema: Schema) -> str | None:
    """An instant in microseconds since 1970 on the users' own clock."""
    if instant is None:
        return None
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(schema.zone)
    return moment.isoformat(" ", "seconds")


def _width(config: Mapping[str, Any]) -> int:
    """Of user embeddings."""
    size = config["model"]
    if size["pool"] != "all":
        return int(size["hidden"])
    shape = INPUT_SHAPE.validate_python(config["input"])
    parts = 2 + bool(shape.profile) + bool(size["summary"])
    # Models from before there was timing do not name it.
    return int(size["hidden"]) * parts + (timing_width(shape) if size.get("timing") else 0)
