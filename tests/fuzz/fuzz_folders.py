"""Many damaged folders and files, read in this process: `python tests/fuzz/fuzz_folders.py 10000`.

Each is refused by the package's own error or gives the answer of the intact file. What does neither
is told with its number, by which it can be drawn again: `… 1 --first NUMBER`. Coverage does not
lead here: behind checksums there is nothing to find by it.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bad_input.conftest import make_shop
from damaged import REFUSED, damage, damaged, outcome, targets


def main() -> int:
    """Draw so many damages; return 1 if any was read as if it were none."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("number", type=int, nargs="?", default=10_000)
    arguments.add_argument("--first", type=int, default=0)
    asked = arguments.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="userbert-fuzz-") as name:
        shop = Path(name)
        make_shop(shop)
        all_targets = targets(shop)
        intact = [target.answer() for target in all_targets]
        started = time.monotonic()
        for number in range(asked.first, asked.first + asked.number):
            chance = random.Random(number)
            place = chance.randrange(len(all_targets))
            target = all_targets[place]
            told = target.file.relative_to(shop)
            content = damage(target.file.read_bytes(), chance)
            with damaged(target.file, content):
                try:
                    found = outcome(target)
                except BaseException:
                    counts["FAULT"] += 1
                    print(f"{number}: {told}\n{traceback.format_exc(limit=-6)}", flush=True)
                    continue
            if found == REFUSED:
                counts["refused"] += 1
            elif found == intact[place]:
                counts["the same"] += 1
            elif found == target.also:
                counts["without metadata"] += 1
            elif target.is_checked:
                counts["SILENTLY OTHER"] += 1
                print(f"{number}: {told} was read as something else", flush=True)
            else:
                counts["other text"] += 1
        seconds = time.monotonic() - started
    print(f"{asked.number:,} in {seconds:.0f} s: {dict(counts)}")
    return int(bool(counts["FAULT"] or counts["SILENTLY OTHER"]))


if __name__ == "__main__":
    sys.exit(main())
