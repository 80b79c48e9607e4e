"""YAML as schemas are written in it, and faults of a schema in the words of who wrote it.

In: YAML text, or pydantic's errors. Out: plain mappings, and one line a fault, each with where it
stands, what was expected and what was found. `schema/models.py` reads and writes with it,
`infer/proposal.py` writes.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

import yaml
from pydantic import ValidationError

from userbert.errors import SchemaError

_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_GUESSED = (":bool", ":int", ":float", ":timestamp")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: in 1.1 the key `on` is true, 04:00 is 240 minutes, dates are no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "expected text as a key, found a list or keys"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_GUESSED)]
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
# In 1.1, 012 is ten.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_mapping(text: str, name: str) -> dict[str, Any]:
    """Read YAML text that holds keys; raise `SchemaError`, which calls the text `name`."""
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
            f"{name}: expected keys such as `user:` and `sources:`, found {_shown(content)}. "
            "`userbert init LOGS` proposes a schema."
        )
    return content


def scalar(text: str) -> str:
    """Write a string, in quotes where it could be read as anything else."""
    if _is_plain(text):
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30).rstrip("\n")


def write_mapping(content: dict[str, Any]) -> str:
    """Write plain values so that `read_mapping` gives the same."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _is_plain(text: str) -> bool:
    letters = re.fullmatch(r"[A-Za-z_/](?:[\w ./()+-]*[\w)])?", text, re.ASCII)
    return letters is not None and text.lower() not in _YAML_WORDS


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 would not, such as 08, and what its plain style breaks, as U+0085."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _is_plain(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most like this one, if one is."""
    close = _closest(name, known)
    return f"; did you mean {close!r}?" if close is not None else ""


def _closest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


Place = tuple[str | int, ...]

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

_SAID = {
    "missing": "this key is missing",
    "invalid_key": "expected text as a key; put it in quotes",
    "too_short": "expected at least one, found none",
}


def explain(
    error: ValidationError,
    name: str,
    keys_at: Callable[[Place], Iterable[str]],
    as_written: Callable[[Place], Place],
    other_kind: Callable[[Place], str | None],
) -> str:
    """Tell one line a fault.

    `keys_at` lists the keys that may stand at a place, `as_written` gives a place in the keys that
    lead there, `other_kind` says why a key cannot stand at its place if it may at another kind of
    what is there.
    """
    lines: dict[str, None] = {}
    faults = error.errors()
    misspelt = {
        (*fault["loc"][:-1], _closest(str(fault["loc"][-1]), keys_at(fault["loc"][:-1])))
        for fault in faults
        if fault["type"] == "extra_forbidden"
    }
    for fault in faults:
        place = fault["loc"]
        shown = ".".join(map(str, as_written(place)))
        if fault["type"] == "missing" and place in misspelt:
            continue
        if fault["type"] == "extra_forbidden":
            key = str(place[-1])
            unknown = f"unknown key {key!r}{did_you_mean(key, keys_at(place[:-1]))}"
            message = other_kind(place) or unknown
        else:
            message = _message(fault)
        dot = "" if message.endswith("?") else "."
        lines[f"{name}: {shown}: {message}{dot}" if shown else f"{name}: {message}{dot}"] = None
    return "\n".join(lines)


def _message(fault: Any) -> str:
    kind, found, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    if kind in _SAID:
        return _SAID[kind]
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator']} is missing"
    if kind in _EXPECTED:
        expected = _EXPECTED[kind]
    elif kind == "literal_error":
        expected = context["expected"]
    elif kind == "union_tag_invalid":
        expected, found = context["expected_tags"].replace(", ", " or "), context["tag"]
    elif kind == "greater_than_equal":
        expected = f"at least {context['ge']}"
    elif kind == "less_than_equal":
        expected = f"at most {context['le']}"
    else:
        return str(fault["msg"])
    advice = "; put it in quotes" if expected == "text" and isinstance(found, int | float) else ""
    return f"expected {expected}, found {_shown(found)}{advice}"


def _shown(found: object) -> str:
    if found is None:
        return "nothing"
    if isinstance(found, dict):
        return "the keys " + ", ".join(str(key) for key in found) if found else "no keys"
    text = str(found).lower() if isinstance(found, bool) else repr(found)
    return text if len(text) <= 60 else f"{text[:60]}…"
