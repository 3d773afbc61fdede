"""Runs inside each Python process of the embedded Triton's models: lets a call be ended from outside, by SIGUSR1.

Copied beside the Python backend, whose own module imports it (`isocenter.stack.tritonserver`), so it imports nothing
of ours. Triton itself can not interrupt a call of a Python model, and when the process of one is killed during a call,
the server (seen in 2.51) keeps the request, its shared memory and thirty threads for ever. A call that ends with an
exception leaves nothing behind.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

__all__ = ["CallEnded", "listen"]


class CallEnded(BaseException):
    """Raised in the middle of the model's call; no Exception, so that a model does not go on in spite of it."""


def listen() -> None:
    """From now on SIGUSR1 ends the call that runs in the main thread, as soon as it is back in Python."""
    signal.signal(signal.SIGUSR1, _end_call)


def _end_call(_number: int, _frame: FrameType | None) -> None:
    # The model was left in the middle of something: it serves nobody any more, it is loaded again.
    for module in list(sys.modules.values()):
        model = vars(module).get("TritonPythonModel") if hasattr(module, "__dict__") else None
        if model is not None:
            model.execute = _refuse
    raise CallEnded("this call was ended from outside, its deadline was over")


def _refuse(_model: Any, _requests: Any) -> Any:
    raise RuntimeError("this model is being loaded again, after a call that did not end")
