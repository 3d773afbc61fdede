"""The demonstration network alone, window in, scores out: what `TritonRemoteModel` asks."""

import json
from pathlib import Path

import torch
import triton_python_backend_utils as pb_utils
from monai.bundle import ConfigParser

BUNDLE = Path(__file__).parent / "bundle"


class TritonPythonModel:
    def initialize(self, args):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
        network = ConfigParser({"network": config["network_def"]}).get_parsed_content("network")
        network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
        self._network, self._device = network.to(device).eval().requires_grad_(False), device

    def execute(self, requests):
        answers = []
        for request in requests:
            window = torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, "window").to_dlpack())
            with torch.inference_mode():
                scores = self._network(window.to(self._device)).cpu().contiguous()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("scores", scores)]))
        return answers
