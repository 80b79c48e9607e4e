"""Simulated logs of two thousand users, and prepared data, for the tests of the reproduction."""

from pathlib import Path

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.experiments.simulate import simulate
from userbert.schema import Schema

USERS = 2_000


def make_ecosystem(folder: Path) -> tuple[Path, PreparedData]:
    """Returns the folder of the logs and the data prepared from them, both below `folder`."""
    simulate(folder / "logs", USERS, workers=1)
    return folder / "logs", prepare_logs(folder / "logs")


def prepare_logs(logs: Path) -> PreparedData:
    """Prepares logs into a folder next to theirs."""
    return prepare(Schema.load(logs / "schema.yaml"), logs.with_name(f"{logs.name}-data"))
