"""Reads and writes the YAML of schemas, and turns pydantic's errors into plain messages.

In: YAML text, or pydantic's errors. Out: plain mappings, and one line per error that says where the
error is, what was expected and what was found. `schema/models.py` reads and writes schemas with
this module; `infer/proposal.py` formats values with it.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

import yaml
from pydantic import ValidationError

from userbert.errors import SchemaError

_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
"""Words that YAML 1.1 reads as null or a truth value unless they are in quotes."""
_MAX_VALUE_LENGTH = 60
"""Maximum number of characters of a value that a message quotes, so that it stays one line."""
_REPLACED_TAGS = (":bool", ":int", ":float", ":timestamp")
"""Types that YAML 1.1 guesses from plain text. `_Loader` has its own rules for them, except that it
leaves timestamps as text."""


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: YAML 1.1 reads `on` as true, 04:00 as 240, dates as objects.

    Duplicate keys and keys that are not text are errors.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "expected text as a key, found a list or a mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_REPLACED_TAGS)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]{1,18}$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\.\d+|\d+\.\d*|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
# YAML 1.1 reads 012 as octal: ten.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_mapping(text: str, name: str) -> dict[str, Any]:
    """Parses YAML text that holds a mapping. Raises `SchemaError`; messages start with `name`."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = str(error.problem)
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        advice = " Indent with spaces." if "'\\t'" in problem else ""
        raise SchemaError(f"{name}{line}: not YAML: {problem}.{advice}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
        raise SchemaError(f"{name}: not YAML: {problem}.") from error
    if not isinstance(content, dict):
        raise SchemaError(
            f"{name}: expected keys such as `user:` and `sources:`, found "
            f"{_describe_value(content)}. `userbert init LOGS` proposes a schema."
        )
    return content


def format_scalar(text: str) -> str:
    """Formats a string as YAML, with quotes if YAML could read it as something else."""
    if _is_plain(text):
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30).rstrip("\n")


def write_mapping(content: dict[str, Any]) -> str:
    """Formats a mapping as YAML; `read_mapping` returns an equal mapping."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _is_plain(text: str) -> bool:
    match = re.fullmatch(r"[A-Za-z_/](?:[\w ./()+-]*[\w)])?", text, re.ASCII)
    return match is not None and text.lower() not in _YAML_WORDS


class _Dumper(yaml.SafeDumper):
    """Quotes text that PyYAML leaves plain but would not read back, such as 08 or U+0085."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _is_plain(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint with the known name closest to `name`; empty if none is similar."""
    close = _closest(name, known)
    return f"; did you mean {close!r}?" if close is not None else ""


def _closest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


Place = tuple[str | int, ...]
"""Keys and list indices that lead to a value."""

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys",
    "model_type": "keys",
    "model_attributes_type": "keys",
    "datetime_type": "a date or time such as 2017-09-01",
}
"""Description of the expected value, by pydantic's type of error."""

_MESSAGES = {
    "missing": "this key is missing",
    "invalid_key": "expected text as a key; put it in quotes",
    "too_short": "expected at least one, found none",
}
"""Message that quotes no value, by pydantic's type of error."""


def explain(
    error: ValidationError,
    name: str,
    keys_at: Callable[[Place], Iterable[str]],
    as_written: Callable[[Place], Place],
    mixed_kinds: Callable[[Place], str | None],
) -> str:
    """Returns one line per error of a schema. Each line starts with `name`, the schema's name.

    `keys_at` lists the keys that are valid at a place. `as_written` turns a place that pydantic
    reports into the keys of the file. `mixed_kinds` returns a message if the unknown key at a place
    belongs to another kind of attribute, else None.
    """
    lines: dict[str, None] = {}
    details = error.errors()
    intended_places = {
        (*detail["loc"][:-1], _closest(str(detail["loc"][-1]), keys_at(detail["loc"][:-1])))
        for detail in details
        if detail["type"] == "extra_forbidden"
    }
    for detail in details:
        place = detail["loc"]
        keys = ".".join(map(str, as_written(place)))
        if detail["type"] == "missing" and place in intended_places:
            continue
        if detail["type"] == "extra_forbidden":
            key = str(place[-1])
            unknown = f"unknown key {key!r}{did_you_mean(key, keys_at(place[:-1]))}"
            message = mixed_kinds(place) or unknown
        else:
            message = _message(detail)
        dot = "" if message.endswith("?") else "."
        lines[f"{name}: {keys}: {message}{dot}" if keys else f"{name}: {message}{dot}"] = None
    return "\n".join(lines)


def _message(detail: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator']} is missing"
    if kind in _EXPECTED:
        expected = _EXPECTED[kind]
    elif kind == "literal_error":
        expected = context["expected"]
    elif kind == "union_tag_invalid":
        expected, value = context["expected_tags"].replace(", ", " or "), context["tag"]
    elif kind == "greater_than_equal":
        expected = f"at least {context['ge']}"
    elif kind == "less_than_equal":
        expected = f"at most {context['le']}"
    else:
        return str(detail["msg"])
    advice = "; put it in quotes" if expected == "text" and isinstance(value, int | float) else ""
    return f"expected {expected}, found {_describe_value(value)}{advice}"


def _describe_value(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "the keys " + ", ".join(str(key) for key in value) if value else "no keys"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}…"
