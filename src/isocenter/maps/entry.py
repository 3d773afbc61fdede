"""What a package answers when its container is started; copied into it as /var/holoscan/tools, which imports nothing.

    (nothing, or options)   run the application; options go to it
    show [app|pkg]          the manifests, as JSON
    extract [WHAT]          app, config, models, docs or all, below /var/run/holoscan/export
    env                     the environment
    version                 of the package
    help

Source: MONAI Application Package specification 1.0, "Container Behavior and Interaction".
"""

from __future__ import annotations

import json
import os
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["main"]

_VERBS = ("show", "extract", "env", "version", "help", "-h", "--help")
_PARTS = ("app", "config", "models", "docs")
_NAMES = {"manifests": "config"}  # as other tools call them
_STOPPED = 128  # and the number of the signal, as a shell tells it
_TIMED_OUT = 124  # as timeout(1) tells it
_STACK_BYTES = 32 << 20  # what Holoscan asks for
_WAIT = (
    "ISOCENTER_WAIT"  # the application waits for a line on its standard input: isocenter_operators.standby
)
_LOOK_S = 0.5


class _Refusal(Exception):
    """What was asked for can not be done; a sentence."""


class _Package:
    """Where everything is, as the environment says it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def place(self, variable: str, default: str) -> Path:
        return Path(self._environment.get(variable, default))

    @property
    def manifests(self) -> dict[str, Path]:
        return {
            "app": self.place("HOLOSCAN_APP_MANIFEST_PATH", "/etc/holoscan/app.json"),
            "pkg": self.place("HOLOSCAN_PKG_MANIFEST_PATH", "/etc/holoscan/pkg.json"),
        }

    def manifest(self, name: str) -> Any:
        try:
            return json.loads(self.manifests[name].read_text())
        except (OSError, ValueError) as error:
            raise _Refusal(f"{self.manifests[name]} can not be read: {error}") from error

    def sources(self, part: str) -> list[Path]:
        """What belongs to one part of the export."""
        if part == "config":
            return [self.place("HOLOSCAN_CONFIG_PATH", "/var/holoscan/app.yaml"), *self.manifests.values()]
        folder = {
            "app": self.place("HOLOSCAN_APPLICATION", "/opt/holoscan/app"),
            "models": self.place("HOLOSCAN_MODEL_PATH", "/opt/holoscan/models"),
            "docs": self.place("HOLOSCAN_DOCS_PATH", "/opt/holoscan/docs"),
        }[part]
        return sorted(folder.iterdir()) if folder.is_dir() else []

    @property
    def export(self) -> Path:
        return self.place("HOLOSCAN_EXPORT_PATH", "/var/run/holoscan/export")


def main(arguments: Sequence[str]) -> int:
    """The exit code: of the application, or 0; 2 where what is asked for can not be done."""
    package = _Package(os.environ)
    try:
        if not arguments or arguments[0] not in _VERBS:
            return _run(package, arguments)
        return _answer(package, arguments[0], arguments[1:])
    except _Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2


def _answer(package: _Package, verb: str, rest: Sequence[str]) -> int:
    if verb == "show":
        sys.stdout.write(_shown(package, rest))
    elif verb == "extract":
        for path in _extract(package, rest):
            sys.stdout.write(f"{path}\n")
    elif verb == "env":
        sys.stdout.writelines(f"{name}={value}\n" for name, value in sorted(os.environ.items()))
    elif verb == "version":
        sys.stdout.write(f"{package.manifest('app').get('version', '')}\n")
    else:
        sys.stdout.write(__doc__ or "")
    return 0


def _shown(package: _Package, names: Sequence[str]) -> str:
    unknown = [name for name in names if name not in package.manifests]
    if unknown:
        raise _Refusal(f"show {unknown[0]}: there is app, pkg, or nothing for both")
    if len(names) == 1:
        document = package.manifest(names[0])
    else:
        document = {f"{name}.json": package.manifest(name) for name in names or package.manifests}
    return json.dumps(document, indent=2) + "\n"


def _extract(package: _Package, wanted: Sequence[str]) -> list[Path]:
    """Copy parts below the export folder: those that are named, else those that have a folder there, else all."""
    if not package.export.is_dir():
        raise _Refusal(
            f"{package.export} is not there: mount a folder that you made yourself, as "
            "-v $PWD/export:/var/run/holoscan/export"
        )
    named = [_NAMES.get(name, name) for name in wanted if name != "all"]
    unknown = [name for name in named if name not in _PARTS]
    if unknown:
        raise _Refusal(f"extract {unknown[0]}: there is {', '.join(_PARTS)}, or nothing for all of them")
    mounted = [part for part in _PARTS if (package.export / part).is_dir()]
    written = []
    for part in named or ([] if wanted else mounted) or _PARTS:
        folder = package.export / part
        try:
            folder.mkdir(exist_ok=True)
            for source in package.sources(part):
                target = folder / source.name
                if source.is_dir():
                    shutil.copytree(source, target, dirs_exist_ok=True)
                elif source.is_file():
                    shutil.copyfile(source, target)
                else:
                    continue
                written.append(target)
        except (OSError, shutil.Error) as error:
            raise _Refusal(
                f"{folder} can not be written by user {os.getuid()}: {error}; give the folder to that user, or run the "
                "container as its owner"
            ) from error
    return written


def _run(package: _Package, options: Sequence[str]) -> int:
    manifest = package.manifest("app")
    for name, value in (manifest.get("environment") or {}).items():
        os.environ.setdefault(name, str(value))
    command = [*_words(manifest.get("command")), *options]
    folder = Path(manifest.get("workingDirectory") or "/")
    _enlarge_stack()
    waits = bool(os.environ.get(_WAIT))
    try:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE if waits else None)
    except OSError as error:
        raise _Refusal(f"{shlex.join(command)} can not be started in {folder}: {error}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _passed_on(process))
    if waits:
        _let_begin(process)
    try:
        code = process.wait(timeout=float(manifest.get("timeout") or 0) or None)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        sys.stderr.write(f"the application was ended after {manifest['timeout']} s, its time limit\n")
        return _TIMED_OUT
    return code if code >= 0 else _STOPPED - code


def _let_begin(process: subprocess.Popen[bytes]) -> None:
    """Pass on the line that it waits for: its time limit begins with that. Where none will come, end it."""
    assert process.stdin is not None
    while process.poll() is None:
        if not select.select([sys.stdin], [], [], _LOOK_S)[0]:
            continue
        line = sys.stdin.buffer.readline()
        if not line:  # whoever started this has ended
            process.kill()
        with suppress(OSError):
            process.stdin.write(line)
            process.stdin.close()
        return


def _enlarge_stack() -> None:
    """For the application, which inherits it; where it may not be, Holoscan warns and goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if 0 <= soft < _STACK_BYTES and not 0 <= hard < _STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))


def _words(command: Any) -> list[str]:
    """A list, a list in JSON as the SDKs write it, or a line for a shell."""
    try:
        parsed = json.loads(command) if isinstance(command, str) else command
    except ValueError:
        parsed = shlex.split(command)
    if not parsed or not isinstance(parsed, list) or not all(isinstance(word, str) for word in parsed):
        raise _Refusal(f"app.json: command is {command!r}: a list of words was expected")
    return parsed


def _passed_on(process: subprocess.Popen[bytes]) -> Any:
    def handler(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    return handler


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
