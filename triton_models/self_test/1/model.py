"""The start-up self-check of a Triton server: do tensors survive, and with what does it compute?

With NumPy 2 in the backend's interpreter, `pb_utils.Tensor(name, array)` and `as_numpy()` give empty tensors
without an error. DLPack works with both, so this model, like every model here, uses DLPack only.

`int16` and `uint8` come back with every bit inverted and `float64` negated, so that neither an empty tensor nor
an untouched buffer can pass; `mask` is 1 where `int16` is negative; `report` is JSON as UTF-8. The request
parameter `sleep_ms` holds the answer back.
"""

import json
import os
import sys
import time

import scipy
import torch
import triton_python_backend_utils as pb_utils

INVERSES = {"int16": torch.bitwise_not, "uint8": torch.bitwise_not, "float64": torch.neg}


class TritonPythonModel:
    def initialize(self, args):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        time.sleep(json.loads(request.parameters() or "{}").get("sleep_ms", 0) / 1000)
        given = {tensor.name(): torch.from_dlpack(tensor.to_dlpack()) for tensor in request.inputs()}
        outputs = []
        for name in request.requested_output_names():
            needed = "int16" if name == "mask" else name
            if needed in INVERSES and needed not in given:
                message = f"output {name!r} was requested without the input {needed!r}"
                error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
                return pb_utils.InferenceResponse(error=error)
            outputs.append(pb_utils.Tensor.from_dlpack(name, self._output(name, given).contiguous()))
        return pb_utils.InferenceResponse(outputs)

    def _output(self, name, given):
        if name == "report":
            return torch.frombuffer(bytearray(json.dumps(self._report()).encode()), dtype=torch.uint8)
        if name == "mask":
            return (given["int16"].to(self.device) < 0).to(torch.uint8).cpu()
        return INVERSES[name](given[name].to(self.device)).cpu()

    def _report(self):
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name() if self.device.type == "cuda" else "",
            "torch": torch.__version__,
            "scipy": scipy.__version__,
            "threads": torch.get_num_threads(),
            "python": sys.version.split()[0],
            "prefix": sys.prefix,
            "process_id": os.getpid(),
        }
