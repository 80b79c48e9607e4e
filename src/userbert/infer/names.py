"""Reads what the name of a column says: a user, an amount, a code, a thing or a time.

In: a column's name. Out: its words, and their meaning in most logs. A name often says more than
the values, so the other files of `infer/` look at the name first.
"""

import re

_PEOPLE = (
    "user", "customer", "cust", "visitor", "household", "hh", "member", "client", "shopper",
    "subscriber", "player", "person", "account", "student", "learner", "pupil", "participant",
    "reader", "listener", "viewer", "patient", "passenger", "employee", "donor", "author", "actor",
    "username", "panelist", "msno", "uid", "cookie", "card",
)  # fmt: skip
"""Words for users, the most certain first."""
_ID_WORDS = {
    "id", "ids", "key", "no", "nr", "nbr", "number", "hash", "hashed", "uuid", "pseudo", "full",
}  # fmt: skip
"""Words that may stand next to the word for the user in the name of a user column."""
_NOT_A_USER = {"is", "has", "new", "num", "n", "total", "old", "active", "per"}
"""Words of columns that describe or count users but do not identify them: `n_users`."""
_THINGS = {
    "department", "dept", "category", "cat", "subcategory", "class", "subclass", "genre", "brand",
    "store", "shop", "product", "item", "article", "page", "site", "merchant", "terminal",
    "course", "module", "lesson", "exercise", "question", "problem", "skill", "topic", "thread",
    "forum", "post", "comment", "tag", "artist", "album", "track", "song", "movie", "film", "book",
    "game", "video", "app", "repo", "sku", "upc", "ean", "school", "teacher", "parent",
}  # fmt: skip
"""Words for the things that users act on, or the places where they act."""
_OCCASIONS = {"order", "basket", "session", "invoice"}
"""Words for groups of actions."""
_CODES = {
    "id", "ids", "code", "key", "zip", "zipcode", "postcode", "no", "nr", "nbr", "mcc", "group",
    "channel", "campaign", "type", "kind", "region", "area", "city", "country", "status", "model",
    "version", "flag", "is", "has",
}  # fmt: skip
"""Words for codes: columns whose numbers are categories."""
_AMOUNTS = {
    "price", "amount", "amt", "value", "quantity", "qty", "cost", "count", "cnt", "total", "sum",
    "revenue", "sales", "spend", "discount", "disc", "duration", "time", "secs", "seconds", "ms",
    "msec", "minutes", "length", "size", "weight", "score", "age", "height", "distance", "balance",
    "income", "percent", "pct", "rate", "num", "units", "points", "tax", "fee", "margin", "profit",
}  # fmt: skip
"""Words for quantities."""
_NOT_AN_ID = {"paid", "prepaid", "unpaid", "bid", "valid", "invalid", "grid", "void", "raid"}
"""Words that end in `id` but do not name an id."""
TIME_WORDS = {
    "timestamp": 6, "ts": 6, "datetime": 6, "time": 5, "date": 4, "when": 4, "at": 3, "day": 2,
    "created": 2, "event": 1, "order": 1, "transaction": 1, "purchase": 1,
    "birth": -9, "expires": -9, "updated": -4, "modified": -4, "due": -4, "loaded": -4,
}  # fmt: skip
"""Evidence of each word that a column is the time of the events; the scores of a name add up.
Words with negative scores name other times, such as that of the row's last change."""


def words_of(name: str) -> list[str]:
    """Splits a column's name into lower-case words: `fullVisitorId` → full, visitor, id."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def user_name_rank(name: str) -> int | None:
    """Returns the rank of a name that says only "user id", 0 for the best; else None."""
    words = _without_ids(name)
    return _rank_of(words[0]) if len(words) == 1 else None


def loose_user_name_rank(name: str) -> int | None:
    """Returns the rank of a name that ends in a word for users (`owner_user_id`), or None.

    A name with a word of `_NOT_A_USER`, such as `n_users`, has no rank.
    """
    words = _without_ids(name)
    return _rank_of(words[-1]) if words and not set(words) & _NOT_A_USER else None


def _without_ids(name: str) -> list[str]:
    """Returns the words of a name, except those that say "id"."""
    return [word for word in words_of(name) if word not in _ID_WORDS]


def _rank_of(word: str) -> int | None:
    """Returns the index in `_PEOPLE` of a word for users, such as `userid`; None for others."""
    word = word.removesuffix("s")
    for suffix in ("", "id", "no", "key"):
        if word.endswith(suffix) and word.removesuffix(suffix) in _PEOPLE:
            return _PEOPLE.index(word.removesuffix(suffix))
    return None


def is_amount(name: str) -> bool | None:
    """Returns True for the name of an amount, False for the name of a code, None if unclear.

    The last word counts most: `store_count` is an amount, `sales_channel` is a code, and
    `course_progress` is unclear.
    """
    is_last = True
    for word in reversed(words_of(name)):
        if word in _CODES or (word.endswith("id") and word not in _NOT_AN_ID):
            return False
        if word in _AMOUNTS:
            return True
        if word in _THINGS and is_last:
            return False
        is_last = is_last and word.isdigit()
    return None


def names_a_thing(name: str) -> bool:
    """Returns whether a column names things or groups of actions: `itemid`, `order_no`."""
    nouns = _THINGS | _OCCASIONS
    return any({word, word.removesuffix("id")} & nouns for word in words_of(name))
