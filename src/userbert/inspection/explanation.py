"""Words of a user as lines of tables: what they hold, and what of it moved a score.

In: views of words, or an `Explanation`. Out: rich tables. `inspect` and `explain` print them.
"""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from userbert.data.store import PreparedData
from userbert.data.use.pairs import instant_of
from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.errors import InputError
from userbert.inspection.layout import local, table

if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation

_VALUES_SHOWN = 4


def words_of(data: PreparedData, user: str, cutoff: str | None) -> RenderableType:
    """Lay out a user's words before a cut-off; raise `InputError` if the user is not known."""
    row = int(data.rows_of([user])[0])
    if row < 0:
        raise InputError(
            f"{data.path} does not know the user {user!r}. Ids are written as in the logs, such as "
            f"{data.user_ids[0]}."
        )
    instant = data.default_cutoff if cutoff is None else instant_of(cutoff, data, "--cutoff")
    title = f"Words of user {user} before {local(data, instant)}"
    made = table(title, "word", "begins", "holds")
    for word in timeline(data, row, instant):
        made.add_row(*_word(word))
    fields = profile_values(data, row, instant)
    profile = ", ".join(f"{name}: {value}" for name, value in fields.items())
    words = made if made.row_count else f"{title}: none is in its windows"
    return Group(words, f"profile: {profile or '(nothing known)'}")


def moved(explanation: "Explanation", data: PreparedData, most: int) -> RenderableType:
    """Lay out what moved a user's score: the words and fields that did most, and by how much."""
    of_class = "" if explanation.value is None else f" of {explanation.value}"
    title = (
        f"User {explanation.user_id} before {local(data, explanation.cutoff)}: "
        f"score{of_class} {explanation.score:.3f}"
    )
    words = table(title, "effect", "word", "begins", "holds", "mostly by")
    for word in explanation.words[:most]:
        by = sorted(word.attributes.items(), key=lambda item: -abs(item[1]))[:2]
        named = ", ".join(f"{name} {effect:+.2g}" for name, effect in by)
        words.add_row(f"{word.effect:+.2g}", *_word(word.word), named)
    fields = table("Profile", "effect", "field", "value")
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
