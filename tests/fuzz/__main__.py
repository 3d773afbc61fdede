"""`make fuzz`: as many mutated series as wanted. `python -m fuzz --replay SEED/NUMBER` makes one of them again.

The images are looked for where the tests have them: `$ISOCENTER_TEST_DATA`, else `../shared` beside the project.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fuzz.mutations import case
from fuzz.originals import originals
from fuzz.run import Ending, run, write

_ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--reasons", action="store_true", help="print each reason of those nobody foresaw")
    parser.add_argument("--replay", metavar="SEED/NUMBER", help="one case; its files are kept")
    given = parser.parse_args()
    sound = originals(Path(os.environ.get("ISOCENTER_TEST_DATA", _ROOT.parent / "shared")) / "dicom")
    folder = Path(tempfile.mkdtemp(prefix="isocenter-fuzz-"))
    if given.replay:
        seed, _, number = given.replay.partition("/")
        one = case(sound, int(seed), int(number))
        write(one.files, folder)
        sys.stdout.write(f"{one}: its files are in {folder}\n")
        report = run([one], workers=1, log=folder / "worker.log")
    else:
        sys.stdout.write(f"{given.cases} cases, seed {given.seed}\n")
        cases = (case(sound, given.seed, number) for number in range(given.cases))
        report = run(cases, workers=given.workers, log=folder / "worker.log", told=_tell_wrong)
    if given.reasons or given.replay:
        shown = Counter(each.reason for each in report.endings if given.replay or each.outcome == "surprise")
        sys.stdout.writelines(f"{count} {reason}\n" for reason, count in shown.most_common())
    sys.stdout.write(report.table() + "\n")
    return 1 if report.wrong else 0


def _tell_wrong(ending: Ending) -> None:
    if ending.wrong:
        sys.stdout.write(f"{ending.case}: {ending.wrong}: {ending.reason}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
