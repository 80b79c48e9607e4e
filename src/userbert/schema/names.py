"""What the names of columns say: of whom, of what, how much, when.

In: a column's name. Out: its words, and what they mean to who reads many logs. The digits of a
column tell less than its name does; `roles`, `columns`, `actions` and `hindsight` ask here first.
"""

import re

_PEOPLE = (
    "user", "customer", "cust", "visitor", "household", "hh", "member", "client", "shopper",
    "subscriber", "player", "person", "account", "student", "learner", "pupil", "participant",
    "reader", "listener", "viewer", "patient", "passenger", "employee", "donor", "author", "actor",
    "username", "email", "panelist", "msno", "uid", "cookie", "card",
)  # fmt: skip
"""Whom a log may be about; the sooner, the surer."""
_ID_WORDS = {"id", "ids", "key", "no", "nr", "number", "hash", "hashed", "uuid", "pseudo", "full"}
_OF_PEOPLE = {"is", "has", "new", "num", "n", "no", "nr", "number", "total", "old", "active", "per"}
"""Words that make of a person's name something else: `new_user`, `n_users`."""
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
    "id", "ids", "code", "key", "zip", "zipcode", "postcode", "no", "nr", "mcc", "group", "channel",
    "campaign", "type", "kind", "region", "area", "city", "country", "status", "model", "version",
    "flag", "is", "has",
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
    """How well a name says that it is a user's: 0 is best; None: it does not.

    A name that says more (`owner_user_id`) ranks behind all that say a person alone.
    """
    all_words = words_of(name)
    words = [word for word in all_words if word not in _ID_WORDS]
    if not words or (len(words) > 1 and set(all_words) & _OF_PEOPLE):
        return None
    word = words[-1].removesuffix("s")
    for suffix in ("", "id", "no", "key"):
        if word.endswith(suffix) and word.removesuffix(suffix) in _PEOPLE:
            behind = len(_PEOPLE) if len(words) > 1 else 0
            return behind + _PEOPLE.index(word.removesuffix(suffix))
    return None


def is_amount(name: str) -> bool | None:
    """Whether a name is an amount's, or a code's; None if it says neither."""
    # The last word is the noun: `store_count` is an amount, `sales_channel` a code.
    for word in reversed(words_of(name)):
        if word in _CODES or word in _THINGS or (word.endswith("id") and word not in _NO_ID):
            return False
        if word in _AMOUNTS:
            return True
    return None


def is_of_a_thing(name: str) -> bool:
    """Whether a name speaks of what people act on, or of an occasion: `itemid`, `order_no`."""
    nouns = _THINGS | _OCCASIONS
    return any({word, word.removesuffix("id")} & nouns for word in words_of(name))
