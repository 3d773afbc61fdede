"""Tries the variants of one model, one after another: `python -m bundle_engine.optimising`.

    python -m bundle_engine.optimising FOLDER PLACE DEVICE BOUND_PERCENT BUDGET_MB [NAME]...

Tells one JSON object per variant and line, a `Trial`: seconds for all volumes, and how many voxels are those of the
network as it is. A variant that can not be had here says why. NAME: only these, beside the network as it is. What is
written is written to PLACE.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from bundle_engine.trial import Trial
from bundle_engine.variant import AS_IT_IS, Variant, as_json, variants_for

__all__ = ["main"]


def main(words: Sequence[str]) -> None:
    given, names = list(words[:5]), words[5:]
    for variant in variants_for(given[2].partition(":")[0]):
        if variant == AS_IT_IS or not names or variant.name in names:
            sys.stdout.write(_tried(given, variant) + "\n")
            sys.stdout.flush()


def _tried(given: Sequence[str], variant: Variant) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "bundle_engine.trial", *given, variant.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        return lines[-1]
    said = (done.stderr.strip().splitlines() or ["no word"])[-1]
    ended = f"its process ended with {done.returncode}"  # less than 0: the signal that ended it
    return json.dumps(asdict(Trial(as_json(variant), reason=f"{ended}: {said[:200]}")))


if __name__ == "__main__":
    main(sys.argv[1:])
