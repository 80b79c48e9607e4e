"""Reads many damaged folders and files in this process: `python tests/fuzz/fuzz_folders.py 10000`.

Each must raise the package's own error or give the answer of the intact file. Any other outcome is
printed with its number; `… 1 --first NUMBER` repeats it. Coverage does not guide the damage, as
checksums reject nearly all of it.
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
    """Reads `number` damaged files; returns 1 if any gives a wrong answer or another error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, nargs="?", default=10_000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="userbert-fuzz-") as name:
        shop = Path(name)
        make_shop(shop)
        all_targets = targets(shop)
        intact = [target.answer() for target in all_targets]
        started = time.monotonic()
        for number in range(arguments.first, arguments.first + arguments.number):
            chance = random.Random(number)
            index = chance.randrange(len(all_targets))
            target = all_targets[index]
            file = target.file.relative_to(shop)
            content = damage(target.file.read_bytes(), chance)
            with damaged(target.file, content):
                try:
                    answer = outcome(target)
                except BaseException:
                    counts["FAULT"] += 1
                    print(f"{number}: {file}\n{traceback.format_exc(limit=-6)}", flush=True)
                    continue
            if answer == REFUSED:
                counts["refused"] += 1
            elif answer == intact[index]:
                counts["unchanged"] += 1
            elif answer == target.without_metadata:
                counts["without metadata"] += 1
            elif target.is_checked:
                counts["WRONG ANSWER"] += 1
                print(f"{number}: {file} gives another answer", flush=True)
            else:
                counts["other text"] += 1
        seconds = time.monotonic() - started
    print(f"{arguments.number:,} in {seconds:.0f} s: {dict(counts)}")
    return int(bool(counts["FAULT"] or counts["WRONG ANSWER"]))


if __name__ == "__main__":
    sys.exit(main())
