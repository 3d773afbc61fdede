"""Where a package keeps its Python: a virtual environment at one place, on the base's interpreter.

A virtual environment, not PYTHONPATH, because Triton's model processes run isolated and find their packages through the
`python3` that comes first on PATH.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from isocenter.maps.base import Interpreter
from isocenter.maps.distributions import Distribution
from isocenter.maps.layer import LayerContent

__all__ = ["ENVIRONMENT", "PYTHON", "environment_layer", "interpreter_layer"]

ENVIRONMENT = "/opt/holoscan/venv"
PYTHON = f"{ENVIRONMENT}/bin/python3"


def environment_layer(distributions: Iterable[Distribution], minor: str) -> LayerContent:
    """The distributions below site-packages of Python `minor` ("3.11"), each with a RECORD of what is there."""
    content = LayerContent()
    site = f"{ENVIRONMENT.lstrip('/')}/lib/python{minor}/site-packages"
    content.folders.add(site)
    for each in distributions:
        for path, source in each.files.items():
            content.files[f"{site}/{path}"] = source
        for path, target in each.links.items():
            content.links[f"{site}/{path}"] = target
        folder = next((p.split("/")[0] for p in each.files if p.split("/")[0].endswith(".dist-info")), None)
        if folder:
            content.files[f"{site}/{folder}/RECORD"] = _record(each, folder)
    return content


def interpreter_layer(interpreter: Interpreter) -> LayerContent:
    """What makes it an environment of the base's interpreter."""
    content = LayerContent()
    folder = ENVIRONMENT.lstrip("/")
    home = interpreter.path.rpartition("/")[0]
    content.files[f"{folder}/pyvenv.cfg"] = (
        f"home = {home}\ninclude-system-site-packages = false\nversion = {interpreter.minor}\n"
    ).encode()
    for name in ("python3", "python", f"python{interpreter.minor}"):
        content.links[f"{folder}/bin/{name}"] = interpreter.path
    return content


def _record(distribution: Distribution, folder: str) -> bytes:
    """The RECORD of a distribution that was installed without its scripts."""
    lines = [f"{path},," for path in distribution.links]
    for path, source in distribution.files.items():
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        digest = base64.urlsafe_b64encode(bytes.fromhex(distribution.digests[path])).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{size}")
    return "\n".join([*sorted(lines), f"{folder}/RECORD,,", ""]).encode()
