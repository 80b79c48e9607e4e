"""Simulated logs of two thousand users, prepared, for the tests of the reproduction."""

from pathlib import Path

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.experiments.simulate import simulate
from userbert.schema import Schema

USERS = 2_000


def make_ecosystem(folder: Path) -> tuple[Path, PreparedData]:
    """The folder of the logs, and what is prepared from them, both below `folder`."""
    simulate(folder / "logs", USERS, workers=1)
    return folder / "logs", prepare_logs(folder / "logs")


def prepare_logs(logs: Path) -> PreparedData:
    """Prepare logs into a folder beside theirs."""
    return prepare(Schema.load(logs / "schema.yaml"), logs.with_name(f"{logs.name}-data"))
