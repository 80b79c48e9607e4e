"""Tables of a user's words, and of the effects that explain a score.

In: prepared data and a user, or an `Explanation`. Out: rich tables, which `userbert inspect` and
`userbert explain` print.
"""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from userbert.data.store import PreparedData
from userbert.data.use.pairs import instant_of
from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.errors import InputError
from userbert.inspection.layout import local_time, table

if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation

_VALUES_SHOWN = 4
"""Number of values of an attribute in a cell."""
_ATTRIBUTES_SHOWN = 2
"""Number of attributes with the largest effects on a word's row."""


def user_words_table(data: PreparedData, user: str, cutoff: str | None) -> RenderableType:
    """Returns a table of a user's words before a cut-off, and the profile.

    By default the cut-off is just after the last event. Raises `InputError` for an unknown user,
    and for a cut-off that is not valid.
    """
    row = int(data.rows_of([user])[0])
    if row < 0:
        raise InputError(
            f"{data.path} has no user {user!r}. Write the id as in the logs, such as "
            f"{data.user_ids[0]}."
        )
    instant = data.default_cutoff if cutoff is None else instant_of(cutoff, data, "--cutoff")
    title = f"Words of user {user} before {local_time(data, instant)}"
    rows = table(title, "word", "begins", "holds")
    for word in timeline(data, row, instant):
        rows.add_row(*_word_cells(word))
    fields = profile_values(data, row, instant)
    profile = ", ".join(f"{name}: {value}" for name, value in fields.items())
    words = rows if rows.row_count else f"{title}: no events in the windows"
    return Group(words, f"profile: {profile or '(no values)'}")


def explanation_table(explanation: "Explanation", data: PreparedData, limit: int) -> RenderableType:
    """Returns a table of a score's largest effects: up to `limit` words, and all profile fields."""
    class_name = "" if explanation.value is None else f" of {explanation.value}"
    title = (
        f"User {explanation.user_id} before {local_time(data, explanation.cutoff)}: "
        f"score{class_name} {explanation.score:.3f}"
    )
    words = table(title, "effect", "word", "begins", "holds", "mainly by")
    for word in explanation.words[:limit]:
        strongest = sorted(word.attributes.items(), key=lambda item: -abs(item[1]))
        strongest = strongest[:_ATTRIBUTES_SHOWN]
        attributes = ", ".join(f"{name} {effect:+.2g}" for name, effect in strongest)
        words.add_row(f"{word.effect:+.2g}", *_word_cells(word.word), attributes)
    fields = table("Profile", "effect", "field", "value")
    for field in explanation.fields:
        fields.add_row(f"{field.effect:+.2g}", field.name, field.value)
    more = len(explanation.words) - limit
    note = (
        f"An effect is how far the output ({explanation.unit}) falls without the word, or without "
        "the values of an attribute in the word. Effects need not add up to the score."
    )
    tables: list[RenderableType] = [words]
    if more > 0:
        tables.append(f"… and {more} words with smaller effects")
    return Group(*tables, *([fields] if explanation.fields else []), note)


def _word_cells(word: WordView) -> tuple[str, str, str]:
    """Returns the cells of a word: segment and number, begin, values."""
    form = "%a %Y-%m-%d" if word.segment == "long_term" else "%a %Y-%m-%d, %H h"
    holds = "; ".join(
        f"{name}: {_top_values(values)}" for name, values in word.values.items() if values
    )
    return f"{word.segment} {word.number}", word.begins.strftime(form), holds


def _top_values(values: list[tuple[str, int]]) -> str:
    """Returns the first values with their counts, and the number of further values, as text."""
    shown = [
        value if count == 1 else f"{value} x{count}" for value, count in values[:_VALUES_SHOWN]
    ]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
