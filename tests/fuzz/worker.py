"""What a worker does with one study after the other, without a queue: `python -m fuzz.worker LIMIT_MB ANSWERS`.

A line of JSON on standard input is a task, with a folder or an archive as its source; a line of JSON to the file
descriptor ANSWERS is how it ended and the memory it took.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isocenter.settings import Settings, WorkerSettings
from isocenter.worker import runner
from isocenter.worker.memory import limit_memory
from isocenter.worker.stack_limit import enlarge_stack
from isocenter_operators.dicom.series import decoder
from isocenter_operators.errors import IsocenterError, OutOfMemory
from isocenter_operators.manifest import AppManifest, read_manifest
from isocenter_operators.run import Archive, Folder, Run

APPLICATION = Path(__file__).parent / "mean_density"


def main(limit_mb: int, answers: int) -> None:
    enlarge_stack()
    faulthandler.enable()
    os.set_inheritable(answers, False)
    logging.disable(logging.CRITICAL)
    app = read_manifest(APPLICATION)
    runner.load(app)
    gc.collect()
    gc.freeze()
    limit_memory(Settings(worker=WorkerSettings(memory_limit_mb=limit_mb)))
    with os.fdopen(answers, "w", buffering=1) as out:
        out.write('{"ready": true}\n')
        for line in sys.stdin:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            answer = _ended(app, json.loads(line))
            out.write(
                json.dumps(answer | {"peak_mb": _status_mb("VmHWM"), "rss_mb": _status_mb("VmRSS")}) + "\n"
            )
        decoder.close()
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        out.write(json.dumps({"decoders_peak_mb": peak_mb}) + "\n")


def _ended(app: AppManifest, task: Mapping[str, Any]) -> dict[str, str]:
    os.environ["MEAN_DENSITY_WASTES_MB"] = str(task.get("wastes_mb", 0))
    source = Folder(Path(task["folder"])) if "folder" in task else Archive(task["archive"], *task["uids"])
    if isinstance(source, Archive):
        source = Archive(source.dicomweb_url, source.study_uid, (task["uids"][1],))
    run = Run(source=source, sink=Folder(Path(task["sink"])), rejected=Path(task["sink"]) / "rejected")
    try:
        outcome = runner.run(app, run)
    except OutOfMemory as error:
        return {"outcome": "out of memory", "reason": str(error)}
    except IsocenterError as error:
        surprise = "ended unexpectedly" in str(error)
        return {"outcome": "surprise" if surprise else "refused", "reason": str(error)}
    return {
        "outcome": "processed" if outcome.status == "done" else "not applicable",
        "reason": outcome.reason,
    }


def _status_mb(line: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{line}:")[2].split()[0]) // 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
