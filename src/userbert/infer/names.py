"""What the names of columns say: of whom, of what, how much, when.

In: a column's name. Out: its words, and what they mean to who reads many logs. The digits of a
column tell less than its name does; `roles`, `columns`, `actions` and `hindsight` ask here first.
"""

import re

_PEOPLE = (
    "user", "customer", "cust", "visitor", "household", "hh", "member", "client", "shopper",
    "subscriber", "player", "person", "account", "student", "learner", "pupil", "participant",
    "reader", "listener", "viewer", "patient", "passenger", "employee", "donor", "author", "actor",
    "username", "panelist", "msno", "uid", "cookie", "card",
)  # fmt: skip
"""Whom a log may be about; the sooner, the surer."""
_ID_WORDS = {
    "id", "ids", "key", "no", "nr", "nbr", "number", "hash", "hashed", "uuid", "pseudo", "full",
}  # fmt: skip
_NO_PERSON = {"is", "has", "new", "num", "n", "total", "old", "active", "per"}
"""Words that make of a person something else: `new_user`, `n_users`."""
_THINGS = {
    "department", "dept", "category", "cat", "subcategory", "class", "subclass", "genre", "brand",
    "store", "shop", "product", "item", "article", "page", "site", "merchant", "terminal",
    "course", "module", "lesson", "exercise", "question", "problem", "skill", "topic", "thread",
    "forum", "post", "comment", "tag", "artist", "album", "track", "song", "movie", "film", "book",
    "game", "video", "app", "repo", "sku", "upc", "ean", "school", "teacher", "parent",
}  # fmt: skip
"""What people act on, or in."""
_OCCASIONS = {"order", "basket", "session", "invoice"}
"""What several actions are part of."""
_CODES = {
    "id", "ids", "code", "key", "zip", "zipcode", "postcode", "no", "nr", "nbr", "mcc", "group",
    "channel", "campaign", "type", "kind", "region", "area", "city", "country", "status", "model",
    "version", "flag", "is", "has",
}  # fmt: skip
_AMOUNTS = {
    "price", "amount", "amt", "value", "quantity", "qty", "cost", "count", "cnt", "total", "sum",
    "revenue", "sales", "spend", "discount", "disc", "duration", "time", "secs", "seconds", "ms",
    "msec", "minutes", "length", "size", "weight", "score", "age", "height", "distance", "balance",
    "income", "percent", "pct", "rate", "num", "units", "points", "tax", "fee", "margin", "profit",
}  # fmt: skip
_NO_ID = {"paid", "prepaid", "unpaid", "bid", "valid", "invalid", "grid", "void", "raid"}
"""Words that end as `itemid` does, and name none."""
TIMES = {
    "timestamp": 6, "ts": 6, "datetime": 6, "time": 5, "date": 4, "when": 4, "at": 3, "day": 2,
    "created": 2, "event": 1, "order": 1, "transaction": 1, "purchase": 1,
    "birth": -9, "expires": -9, "updated": -4, "modified": -4, "due": -4, "loaded": -4,
}  # fmt: skip
"""How much each word says for a column that it is the time of events."""


def words_of(name: str) -> list[str]:
    """Take a column's name apart: `fullVisitorId` → full, visitor, id."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def rank_as_user(name: str) -> int | None:
    """How well a name says that it is a user's, and no more: 0 is best; None: it does not."""
    words = _without_ids(name)
    return _rank_of(words[0]) if len(words) == 1 else None


def rank_as_some_user(name: str) -> int | None:
    """The same of names that say more than that: `owner_user_id`, but not `n_users`."""
    words = _without_ids(name)
    return _rank_of(words[-1]) if words and not set(words) & _NO_PERSON else None


def _without_ids(name: str) -> list[str]:
    return [word for word in words_of(name) if word not in _ID_WORDS]


def _rank_of(word: str) -> int | None:
    word = word.removesuffix("s")
    for suffix in ("", "id", "no", "key"):
        if word.endswith(suffix) and word.removesuffix(suffix) in _PEOPLE:
            return _PEOPLE.index(word.removesuffix(suffix))
    return None


def is_amount(name: str) -> bool | None:
    """Whether a name is an amount's, or a code's; None if it says neither.

    The last word is the noun: `store_count` is an amount, `sales_channel` a code, and what a
    `course_progress` is does not show.
    """
    is_last = True
    for word in reversed(words_of(name)):
        if word in _CODES or (word.endswith("id") and word not in _NO_ID):
            return False
        if word in _AMOUNTS:
            return True
        if word in _THINGS and is_last:
            return False
        is_last = is_last and word.isdigit()
    return None


def is_of_a_thing(name: str) -> bool:
    """Whether a name speaks of what people act on, or of an occasion: `itemid`, `order_no`."""
    nouns = _THINGS | _OCCASIONS
    return any({word, word.removesuffix("id")} & nouns for word in words_of(name))
