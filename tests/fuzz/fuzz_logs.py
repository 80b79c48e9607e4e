"""Fuzzes `init` and `prepare` with changed logs and schemas, guided by coverage.

    pip install -e ".[fuzz]" && python tests/fuzz/fuzz_logs.py build/fuzz -runs=10000

All options of libFuzzer are accepted. The first argument is a folder that keeps the corpus between
runs; inputs that fail `mutated_logs.check` go into its `failures/`, each with the traceback. Add
each failure as a case to `tests/bad_input/test_fuzz_logs.py`.
"""

import hashlib
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["userbert"]):
    from mutated_logs import SEEDS, WORDS, check

NAMES = sorted(SEEDS)


class Campaign:
    """The inputs so far, and the outcomes of `check`."""

    def __init__(self, folder: Path) -> None:
        self.corpus, self.failures = folder / "corpus", folder / "failures"
        self.inputs = 0
        self.outcomes: Counter[str] = Counter()
        self.failure_counts: Counter[str] = Counter()

    def seed(self) -> None:
        """Writes each valid file into the corpus, after a byte with its number."""
        for folder in (self.corpus, self.failures):
            folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(NAMES):
            (self.corpus / name).write_bytes(bytes([number]) + SEEDS[name])

    def check_input(self, data: bytes) -> None:
        """Checks one input; records failures and continues."""
        if not data:
            return
        self.inputs += 1
        name, content = NAMES[data[0] % len(NAMES)], data[1:]
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.outcomes += check(Path(folder), name, content)
            except BaseException as error:  # panics of polars are not Exceptions
                if isinstance(error, KeyboardInterrupt):
                    raise
                self._record_failure(name, content, error)
        if self.inputs % 1000 == 0:
            self.print_progress()

    def _record_failure(self, name: str, content: bytes, error: BaseException) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {frame.name}"
        self.failure_counts[kind] += 1
        if self.failure_counts[kind] <= 5:
            key = hashlib.sha256(content).hexdigest()[:8]
            (self.failures / f"{key}-{name}").write_bytes(content)
            lines = "".join(traceback.format_exception(error))
            (self.failures / f"{key}-{name}.txt").write_text(lines, errors="replace")

    def print_progress(self) -> None:
        """Prints the counts so far."""
        print(
            f"{self.inputs:,} inputs; {dict(self.outcomes)}; failures: {dict(self.failure_counts)}",
            flush=True,
        )


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes an input; half the time starts from a valid file, as most changes break it."""
    random = Random(seed)
    if random.random() < 0.5 or not data:
        number = random.randrange(len(NAMES))
        data = bytes([number]) + SEEDS[NAMES[number]]
    for _ in range(random.randint(1, 3)):
        if random.random() < 0.3:
            data = data[:1] + atheris.Mutate(data[1:], max_size - 1)
            continue
        start = random.randint(1, len(data))
        end = start + random.choice([0, 0, 1, 1, 2, 8, 60])
        data = data[:start] + random.choice(WORDS).encode() + data[end:]
    return data[:max_size]


def main() -> None:
    """Fuzzes until libFuzzer's options stop it."""
    campaign = Campaign(Path(sys.argv[1]))
    campaign.seed()
    # Inputs are at most a little larger than the seeds, which leaves time for more of them.
    options = ["-max_len=8192", "-timeout=60", "-rss_limit_mb=4096", *sys.argv[2:]]
    # libFuzzer writes inputs that crash or are slow to the same folder.
    options.append(f"-artifact_prefix={campaign.failures}/")
    atheris.Setup(
        [sys.argv[0], *options, str(campaign.corpus)], campaign.check_input, custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
