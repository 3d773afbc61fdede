"""`python apps/ct_lung_density`: a folder in, a folder out, as the environment of a MAP names them.

The numbers go to stdout as JSON, anything else to stderr. Exit code 0 also where the application is not applicable.
"""

import json
import os
import sys

# What goes wrong arrives as an exception; Holoscan's own account of it is for those who ask.
os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")
os.environ.setdefault("HOLOSCAN_EXECUTOR_LOG_LEVEL", "OFF")

from app import application

from isocenter_operators.errors import IsocenterError


def main() -> int:
    try:
        outcome = application().execute()
    except IsocenterError as error:
        sys.stderr.write(f"ct_lung_density: {error}\n")
        return 1
    if outcome.status == "not_applicable":
        sys.stderr.write(f"not applicable: {outcome.reason}\n")
    for note in outcome.notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(json.dumps([dict(group) for group in outcome.groups], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
