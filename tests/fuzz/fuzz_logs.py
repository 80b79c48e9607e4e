"""Change the bytes of logs and schemas, guided by coverage, and see what `init` and `prepare` say.

    pip install -e ".[fuzz]" && python tests/fuzz/fuzz_logs.py build/fuzz -runs=10000

Every option of libFuzzer may follow. The folder that is named first holds what was learned from
run to run; inputs that broke what `mutated_logs.check` promises go into its `failures/`, each with
the traceback. What is found becomes a case of `tests/bad_input/test_fuzz_logs.py`.
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
    """What came of all inputs."""

    def __init__(self, folder: Path) -> None:
        self.corpus, self.failures = folder / "corpus", folder / "failures"
        self.inputs = 0
        self.ends: Counter[str] = Counter()
        self.found: Counter[str] = Counter()

    def seed(self) -> None:
        """Begin with the good files: a byte that says which one it is, then its content."""
        for each in (self.corpus, self.failures):
            each.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(NAMES):
            (self.corpus / name).write_bytes(bytes([number]) + SEEDS[name])

    def one(self, data: bytes) -> None:
        """Check one input; go on whatever is found."""
        if not data:
            return
        self.inputs += 1
        name, content = NAMES[data[0] % len(NAMES)], data[1:]
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.ends += check(Path(folder), name, content)
            except BaseException as error:  # a panic of polars is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                self._keep(name, content, error)
        if self.inputs % 1000 == 0:
            self.tell()

    def _keep(self, name: str, content: bytes, error: BaseException) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {frame.name}"
        self.found[kind] += 1
        if self.found[kind] <= 5:
            key = hashlib.sha256(content).hexdigest()[:8]
            (self.failures / f"{key}-{name}").write_bytes(content)
            lines = "".join(traceback.format_exception(error))
            (self.failures / f"{key}-{name}.txt").write_text(lines, errors="replace")

    def tell(self) -> None:
        """Say what came out so far."""
        print(
            f"{self.inputs:,} inputs; {dict(self.ends)}; failures: {dict(self.found)}", flush=True
        )


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change an input: every second one is a good file first, as most changes break a file."""
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
    """Run until libFuzzer's options say that it is enough."""
    campaign = Campaign(Path(sys.argv[1]))
    campaign.seed()
    # One input may be larger than a seed, but not much: time goes into variety.
    options = ["-max_len=8192", "-timeout=60", "-rss_limit_mb=4096", *sys.argv[2:]]
    # Also of inputs that end the process, or are slow.
    options.append(f"-artifact_prefix={campaign.failures}/")
    atheris.Setup(
        [sys.argv[0], *options, str(campaign.corpus)], campaign.one, custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
