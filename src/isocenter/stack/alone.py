"""An application by itself: its models are served by a Triton of its own, for this run, where none is named.

    python -m isocenter.stack.alone APP [OPTION...]

This is how a MONAI Application Package of an application with models on Triton runs. With TRITON_SERVER_NETLOC in the
environment (host:port of the gRPC endpoint) that server is asked instead, and nothing is started. The model repository
is HOLOSCAN_MODEL_PATH, and each model has to have the weights that app.yaml states.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from isocenter.settings import Settings, TritonSettings
from isocenter.stack.ports import any_for_triton
from isocenter.stack.triton import starting_triton
from isocenter.weights import weights_of
from isocenter_operators.errors import ConfigurationError, IsocenterError
from isocenter_operators.manifest import read_manifest

__all__ = ["main"]

_NETLOC = "TRITON_SERVER_NETLOC"


def main(arguments: Sequence[str]) -> int:
    """The application's exit code; 1 where the server does not come up, 2 where something is not as it has to be."""
    app, *options = arguments
    command = [sys.executable, app, *options]
    # `-h` needs no server.
    if os.environ.get(_NETLOC) or {"-h", "--help"} & set(options):
        return _wait(command, dict(os.environ))
    try:
        manifest = read_manifest(Path(app))
        repository = Path(os.environ.get("HOLOSCAN_MODEL_PATH", "/opt/holoscan/models"))
        weights_of(manifest, (repository,))
        with TemporaryDirectory(prefix="isocenter-") as folder:
            settings = Settings(data_dir=Path(folder), triton=TritonSettings(model_repository=repository))
            with starting_triton(any_for_triton(settings), tuple(manifest.models)) as address:
                return _wait(command, {**os.environ, _NETLOC: address()})
    except IsocenterError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigurationError) else 1


def _wait(command: Sequence[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=environment)
    # Whoever ends this ends the application; the server goes with the block above.
    signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
