"""Small log to prepare, and the row accounts in a summary."""

import json
from typing import Any

from small_logs import log
from userbert.data.store import PreparedData

BREAD = log(
    ("a", "2017-03-01 10:00", "buy", "bread", 1.0),
    ("b", "2017-03-01 10:00", "click", "milk", None),
    ("b", "2017-03-02 10:00", "buy", "milk", 2.0),
)


def row_accounts(data: PreparedData) -> dict[str, Any]:
    """Returns the row account of each file; asserts that outcomes add up to the rows read."""
    summary = json.loads((data.path / "summary.json").read_text())
    for account in summary["rows"].values():
        parts = ("used", "outside_segments", "quarantined", "duplicates_dropped")
        assert account["read"] == sum(account[part] for part in parts)
    rows: dict[str, Any] = summary["rows"]
    return rows
