"""A model on a real Triton that notes the order of its calls, waits, fails and hangs as its request tells it to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from ports import free_port

from isocenter.settings import Settings, TritonSettings
from isocenter_operators.inference.triton import TritonClient

ROOT = Path(__file__).parents[1]
LARGE = 100_000  # bytes; goes through shared memory
SMALL = 100  # bytes; travels in the message
DEADLINE_S = 2.0  # of the application that uses the model

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input [ {{ name: "bytes"  data_type: TYPE_UINT8  dims: [ -1 ] }} ]
output [ {{ name: "bytes"  data_type: TYPE_UINT8  dims: [ -1 ] }} ]
{batching}
instance_group [ {{ count: {instances}  kind: KIND_CPU }} ]
"""

MODEL = """
import itertools, json, os, re, signal, time
import numpy  # not torch, which takes seconds to import: by DLPack both get the tensor whole
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        told = json.loads(request.parameters() or "{}")
        if "order" in told:
            with open(told["order"], "a") as order:
                order.write(told["tag"] + "\\n")
        try:
            self.wait(told)
        except Exception:
            pass  # as a careless model would: it must not take the end of its call for an error of its own
        if told.get("fail"):
            raise RuntimeError(told["fail"])
        answer = ~numpy.from_dlpack(pb_utils.get_input_tensor_by_name(request, "bytes"))
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("bytes", answer)])

    def wait(self, told):
        while "until" in told and not os.path.exists(told["until"]):
            time.sleep(0.01)
        hang = told.get("hang")
        if hang == "sleep":
            time.sleep(3600)
        elif hang == "regex":
            re.match("(a+)+$", "a" * 64 + "b")
        elif hang == "c":  # holds the GIL and looks at no signal
            sum(itertools.repeat(0))
        elif hang == "die":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def batching_of(model: str) -> str:
    """The scheduler and its queue as the shipped model `model` has them."""
    config = (ROOT / "triton_models" / model / "config.pbtxt").read_text()
    found = re.search(r"^dynamic_batching \{.*?^\}", config, re.MULTILINE | re.DOTALL)
    assert found
    return found[0]


def settings_with(folder: Path, *names: str, batching: str | None = None, instances: int = 1) -> Settings:
    """For a Triton of one's own whose repository has a patient model of each name."""
    repository = folder / "models"
    repository.mkdir()
    (repository / "self_test").symlink_to(ROOT / "triton_models" / "self_test")
    for name in names:
        (repository / name / "1").mkdir(parents=True)
        scheduler = batching_of("self_test") if batching is None else batching
        config = CONFIG.format(name=name, batching=scheduler, instances=instances)
        (repository / name / "config.pbtxt").write_text(config)
        (repository / name / "1" / "model.py").write_text(MODEL)
    (folder / "apps" / "patience").mkdir(parents=True)
    models = ", ".join(f"{name}: '1'" for name in names)
    (folder / "apps" / "patience" / "app.yaml").write_text(
        "application: {title: patience, version: 1.0.0}\n"
        f"isocenter: {{models: {{{models}}}, deadline_s: {DEADLINE_S}}}\n"
    )
    return Settings(
        data_dir=folder / "data",
        apps_dir=folder / "apps",
        triton=TritonSettings(
            http_port=free_port(),
            grpc_port=free_port(),
            metrics_port=free_port(),
            model_repository=repository,
            device="cpu",
        ),
    )


def waiting(settings: Settings, model: str) -> int:
    """How many calls of `model` stand in the server's queue."""
    metrics = httpx.get(f"http://127.0.0.1:{settings.triton.metrics_port}/metrics").text
    found = re.search(
        rf'^nv_inference_pending_request_count{{model="{model}",.*}} (\d+)', metrics, re.MULTILINE
    )
    assert found
    return int(found[1])


def wait_until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def call(
    client: TritonClient,
    model: str,
    size: int = LARGE,
    *,
    deadline_s: float = 60,
    priority: int = 0,
    **told: Any,
) -> NDArray[np.uint8]:
    """One call, whose answer is checked."""
    sent = np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8)
    received = client.infer(
        model,
        {"bytes": sent},
        outputs={"bytes": size},
        deadline_s=deadline_s,
        priority=priority,
        parameters=told,
    )
    np.testing.assert_array_equal(received["bytes"], ~sent)
    return received["bytes"]
