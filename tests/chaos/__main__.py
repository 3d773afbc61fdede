"""`make chaos`: the fault test in its long form, on SQLite and on PostgreSQL with three workers.

The first run that comes out wrong ends it, with exit code 1; its seed repeats it.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from postgres import NoPostgres, postgres_programs, running_postgres

from chaos.report import Report, told
from chaos.run import run
from chaos.site import running_site


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=300, help="in each run")
    parser.add_argument("--studies", type=int, help="default: as many as faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--keep", type=Path, help="a folder for logs and databases; default: a temporary one")
    given = parser.parse_args()
    # What was started is ended then, and the disks are unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    databases = ["sqlite", "postgresql"] if given.database == "both" else [given.database]
    if "postgresql" in databases:
        try:
            postgres_programs()
        except NoPostgres as error:
            parser.error(str(error))
    for database in databases:
        sys.stdout.write(f"{database}: {given.faults} faults, seed {given.seed}\n")
        with tempfile.TemporaryDirectory(prefix="isocenter-chaos-") as folder:
            report = _run(database, given, (given.keep or Path(folder)) / database)
        told(report)
        if not report.sound:
            return 1
    return 0


def _run(database: str, given: argparse.Namespace, folder: Path) -> Report:
    with ExitStack() as ending:
        shared = database == "postgresql"
        server = ending.enter_context(running_postgres()) if shared else None
        site = ending.enter_context(running_site(folder, postgres=server, workers=3 if shared else 1))
        return run(site, faults=given.faults, studies=given.studies or given.faults, seed=given.seed)


if __name__ == "__main__":
    sys.exit(main())
