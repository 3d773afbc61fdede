"""A whole CT to Triton and its mask back: GPU memory that both sides share, against the system's and gRPC.

    PYTHONPATH=src:operators python benchmarks/cuda_transport.py

One embedded server, the model `self_test`: int16 (275, 512, 512), 144 MB in, uint8 of the same grid, 72 MB out. It is
asked twice: as models are installed, where Triton's Python backend copies what comes on the GPU to the host before the
model sees it, and with FORCE_CPU_ONLY_INPUT_TENSORS "no", where the model gets it on the GPU. Without a GPU the way by
its memory is left out, and so is results.json. Needs no Orthanc.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from comparison import machine, write_results
from series import embedded_settings

from isocenter.settings import Settings
from isocenter.stack.triton import running_triton
from isocenter_operators.inference.cuda_memory import Cuda, cuda_runtime
from isocenter_operators.inference.transport_trial import round_trip_s
from isocenter_operators.inference.triton import TritonClient

SHAPE = (275, 512, 512)  # (Z, Y, X)
_ROUNDS = 5
_ON_GPU = '\nparameters: { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: { string_value: "no" } }\n'


def main() -> None:
    cuda = cuda_runtime()
    results = {
        f"volume to Triton and a GPU, {title}": measured(cuda, config)
        for title, config in (("as installed", ""), ("inputs stay on the GPU", _ON_GPU))
    }
    if cuda is not None:
        write_results(results)
    print(json.dumps(results, indent=2))


def measured(cuda: Cuda | None, config: str) -> dict[str, object]:
    """The least seconds by each way, and the way that was really taken."""
    with _settings(config) as settings, running_triton(settings, ["self_test"]) as url, ExitStack() as open_:
        clients = {
            "system_s": TritonClient(url),
            "grpc_s": TritonClient(url, shared_memory=False),
            **({} if cuda is None else {"cuda_s": TritonClient(url, shared_memory=False, cuda=cuda)}),
        }
        found: dict[str, object] = {"machine": machine()}
        for name, client in clients.items():
            open_.enter_context(client)
            seconds = round_trip_s(client, SHAPE, _ROUNDS, deadline_s=120)
            found[name] = round(seconds, 4) if name == f"{_SHORT[client.transport or '']}_s" else None
        return found


_SHORT = {"cuda_shared_memory": "cuda", "shared_memory": "system", "grpc": "grpc"}


@contextmanager
def _settings(config: str) -> Iterator[Settings]:
    """Of an embedded stack whose `self_test` has this at the end of its configuration."""
    with embedded_settings() as settings, tempfile.TemporaryDirectory() as folder:
        installed = settings.triton.model_repository / "self_test"
        shutil.copytree(installed, Path(folder) / "self_test")
        with (Path(folder) / "self_test" / "config.pbtxt").open("a") as file:
            file.write(config)
        changed = settings.triton.model_copy(update={"model_repository": Path(folder)})
        yield settings.model_copy(update={"triton": changed})


if __name__ == "__main__":
    main()
