"""Facts about a model for people, and the model card in its folder.

In: the model's `config.json`, `training.json` and schema. Out: facts by name, or `README.md`, which
hubs show as the model's page. `inspect` prints the same facts. The facts name no user and no value
of the logs. The card has no checksum, so that people may edit it before they share the folder.
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
"""Texts by title; None: the fact is unknown and not shown."""

_USAGE = """```sh
userbert prepare schema.yaml -o data --vocabulary model    # logs, with the ids of this model
userbert embed model data -o embeddings.parquet
```

```python
import userbert as ub

model = ub.UserBert.from_pretrained("model")    # this folder, or its name on a hub
vectors = model.embed(ub.PreparedData.open("data"))
```"""
"""Section of the card on usage, as Markdown."""
_LIMITS = (
    "The model applies to users and actions like those in its training logs.",
    "Values that are not in its vocabularies are all *unknown*.",
    "Vectors have no unit, and vectors of two models cannot be compared.",
    "Vectors can reveal facts that people never disclosed. Check which people a decision based on "
    "vectors would exclude, and never base a decision about a person on vectors alone.",
    "`vocabularies.json` contains values from the logs, `schema.yaml` the names of files and "
    "columns. Neither contains users, unless an attribute identifies them. Check both before you "
    "share the folder.",
)
"""Limits of every model, as sentences."""


def count_weights(file: Path) -> int:
    """Returns the number of weights in a safetensors file, from its header."""
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        header = json.loads(content.read(length))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def network_facts(config: Mapping[str, Any], weights: int) -> Facts:
    """Returns the size of a network, and its hidden profile fields.

    `config` is the content of `config.json`; `weights` is the number of weights.
    """
    size = config["model"]
    return {
        "network": f"{size['layers']} layers of width {size['hidden']}, {size['heads']} heads",
        "weights": f"{weights:,}",
        "vectors": f"{_width(config):,} numbers, pool={size['pool']}",
        "hidden fields": ", ".join(config["hidden"]) or None,
    }


def is_pretrained(record: Mapping[str, Any]) -> bool:
    """Returns whether the record of a model's training describes a pretraining."""
    return "steps" in record.get("config", {})


def pretraining_facts(record: Mapping[str, Any], schema: Schema) -> Facts:
    """Returns the data, length and settings of the pretraining, from its record."""
    config, parent = record["config"], record.get("from")
    steps = f"{config['steps']:,} batches of {config.get('batch_size')}"
    users = _format_value(record, "users", ", {:,} user sequences") or ""
    speed = _format_value(record, "users_per_s", ", {:,.0f} users a second") or ""
    seconds = _format_value(record, "seconds", "{:,.0f} s")
    return {
        "preset": record.get("preset"),
        "trained on events before": _moment(record.get("before"), schema),
        "first event": _moment(record.get("first_event"), schema),
        "cut-off per user": "yes (--at)" if record.get("at") else None,
        "users": _format_value(record, "people", "{:,}"),
        "(user, cut-off) pairs": _format_value(record, "pairs", "{:,}"),
        "held out": _format_value(record, "held_out_pairs", "{:,} pairs"),
        "data": _format_value(record, "data", "{:.12}"),
        "steps": steps + users,
        "time": None if seconds is None else seconds + speed,
        "seed": _format_value(record, "seed", "{}"),
        "processes": _format_value(record, "processes", "{}"),
        "precision": record.get("precision"),
        "started from": None
        if not parent
        else f"a model of seed {parent.get('seed')}, "
        f"{parent.get('config', {}).get('steps', 0):,} steps",
        "values added by extend": _format_value(record, "extended_by", "{}"),
        "software": ", ".join(
            f"{name} {release}" for name, release in record.get("versions", {}).items()
        )
        or None,
    }


def losses(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns a row per loss: its name, and its last value on training users and held-out users."""
    if "losses" not in record:
        return []
    held_out = record.get("validation") or {}
    total = {"total": ("loss", record["loss"])}
    parts = {name: (name, loss) for name, loss in record["losses"].items()}
    return [
        (name, f"{loss:.3f}", f"{held_out[key]:.3f}" if key in held_out else "")
        for name, (key, loss) in (total | parts).items()
    ]


def inputs(config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Returns a row per input: segment (or `profile`), attribute, number of ids, and table."""
    parts = [(segment["name"], segment["attributes"]) for segment in config["input"]["segments"]]
    parts.append(("profile", config["input"]["profile"]))
    return [
        (part, attribute["name"], f"{attribute['size']:,}", attribute["table"])
        for part, attributes in parts
        for attribute in attributes
    ]


def model_card(
    config: Mapping[str, Any], record: Mapping[str, Any], schema: Schema, weights: int
) -> str:
    """Returns a model's card as Markdown, with the YAML header that hubs read.

    `weights` is the number of weights.
    """
    bound = _moment(record.get("before"), schema)
    sections = {
        "Earliest cut-off": _bound_note(bound),
        "Usage": _USAGE,
        "The network": facts_table(network_facts(config, weights)),
        "Inputs": markdown_table(
            ("segment", "attribute", "ids"), [row[:3] for row in inputs(config)]
        ),
        "Pretraining": facts_table(pretraining_facts(record, schema))
        if is_pretrained(record)
        else "The model has not been pretrained: its weights are random.",
        "Losses at the end": markdown_table(("loss", "training", "held out"), losses(record)),
        "Limits": "\n".join(f"- {limit}" for limit in _LIMITS),
    }
    about = (
        "This model reads a user's actions before a cut-off, as *behavioral words*, and returns a "
        f"vector of {_width(config):,} numbers. Its pretraining needs no labels."
    )
    return card("User embeddings", about, sections, ("user-embeddings", "self-supervised"))


def card(title: str, about: str, sections: Mapping[str, str], tags: Sequence[str]) -> str:
    """Returns a card as Markdown. `sections` holds text by title; empty sections are left out."""
    head = "\n".join(f"- {tag}" for tag in ("userbert", "event-sequences", *tags))
    parts = [
        f"---\nlibrary_name: userbert\ntags:\n{head}\n---",
        f"# {title}",
        about,
        *(f"## {name}\n\n{text}" for name, text in sections.items() if text),
        f"Written by userbert {version('userbert')}. This page may be edited.",
    ]
    return "\n\n".join(parts) + "\n"


def facts_table(facts: Facts) -> str:
    """Returns the known facts as a Markdown table."""
    return markdown_table(
        ("", ""), [(name, text) for name, text in facts.items() if text is not None]
    )


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns rows as a Markdown table, or an empty string if there are no rows."""
    lines = [*rows]
    if not lines:
        return ""
    rule = ["---"] * len(heading)
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (heading, rule, *lines))


def _bound_note(bound: str | None) -> str:
    """Returns the note on the earliest cut-off without leakage; empty if `bound` is unknown."""
    if bound is None:
        return ""
    return (
        f"The model was trained on events before **{bound}**. At earlier cut-offs its vectors may "
        "contain future leakage, so results there look better than they are. `finetune` and "
        "`evaluate` refuse labels with earlier cut-offs."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _format_value(record: Mapping[str, Any], key: str, form: str) -> str | None:
    """Formats a value of a record; returns None if the value is missing, as in old records."""
    return None if record.get(key) is None else form.format(record[key])


def _moment(instant: int | None, schema: Schema) -> str | None:
    """Returns an instant in µs since 1970 as text in the schema's time zone."""
    if instant is None:
        return None
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(schema.zone)
    return moment.isoformat(" ", "seconds")


def _width(config: Mapping[str, Any]) -> int:
    """Returns the width of user embeddings."""
    size = config["model"]
    if size["pool"] != "all":
        return int(size["hidden"])
    shape = INPUT_SHAPE.validate_python(config["input"])
    parts = 2 + bool(shape.profile) + bool(size["summary"])
    # Models of earlier versions have no `timing` key.
    return int(size["hidden"]) * parts + (timing_width(shape) if size.get("timing") else 0)
