"""Where one instance of the model computes."""

from __future__ import annotations

__all__ = ["device_of"]


def device_of(wanted: str, instance_kind: str, instance_device_id: str, *, available: int) -> str:
    """The device of one instance, as torch names it.

    wanted: auto, cpu or cuda, the parameter of config.pbtxt. instance_kind, instance_device_id: what Triton tells the
    instance (`model_instance_kind`: CPU, GPU or MODEL): with instances on several GPUs each has its own. available: how
    many GPUs torch sees. KIND_AUTO is GPU where Triton finds one, and CPU where not.

    Raises ValueError, saying what to change, for a device that can not be had.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {wanted!r}; use auto, cpu or cuda")
    if wanted == "cuda" and not available:
        raise ValueError("device is cuda, but torch finds no CUDA device")
    if wanted == "cpu" or not available or (wanted == "auto" and instance_kind == "CPU"):
        return "cpu"
    number = int(instance_device_id) if instance_kind == "GPU" else 0
    if number >= available:
        raise ValueError(
            f"this instance is to run on GPU {number}, and torch sees {available}; correct gpus in instance_group"
        )
    return f"cuda:{number}"
