"""The group of commands, and how an error ends: one sentence on stderr, and an exit code that says whose fault.

0 done, 1 the work failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext

import click

from isocenter.cli.interruption import signals_kept
from isocenter.cli.output import print_json, say
from isocenter.worker.stack_limit import enlarge_stack
from isocenter_operators.errors import ConfigurationError, IsocenterError

__all__ = ["main"]

_COMMANDS = {
    "up": "start the embedded stack in the foreground",
    "worker": "one worker in the foreground, beside those of `up`: on this machine or another",
    "gateway": "the gateway alone in the foreground, where others start Orthanc and Triton",
    "demo": "start everything, send a study, and show what was found",
    "send": "send DICOM files to the archive",
    "run": "one application on a folder, no PACS",
    "jobs": "the jobs: list, show, retry, cancel",
    "rules": "which rules fire for these files, and why the others do not",
    "app": "a new application of one's own, from a template",
    "map": "MONAI Application Packages: build, inspect, lint, run",
    "models": "the models and their versions: list, import a MONAI bundle, check, promote, shadow, report",
    "validate": "what is wrong with DICOM results, by the standard",
    "validate-site": "an application on a site's own cases: a validation report",
    "healthcheck": "does this container's gateway or worker do its work",
    "doctor": "is everything this needs here, reachable and compatible",
}


class _Commands(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"isocenter.cli.{cmd_name.replace('-', '_')}"
        ).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="isocenter")
def group(debug: bool) -> None:
    """Routes new scans to AI applications and brings their results back beside the images.

    Not a medical device.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # The command itself, and not `map run`, which attends to the signals in its own way.
    runs_graph = next((word for word in given if not word.startswith("-")), "") in ("run", "validate-site")
    if arguments is None and runs_graph:
        enlarge_stack()
    try:
        # Before anything that such a command imports: NumPy's threads would take the signals.
        with signals_kept() if runs_graph else nullcontext():
            # `--debug` may stand anywhere.
            code = group(args=[each for each in given if each != "--debug"], standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        return _end(f"{error.format_message()}{where}", 2, as_json="--json" in given)
    except (click.Abort, KeyboardInterrupt):
        return _end("interrupted", 130, as_json="--json" in given)
    except Exception as error:  # noqa: BLE001 - the last place where an error can still be told
        if debug:
            traceback.print_exc()
        return _end(_sentence(error), _code(error), as_json="--json" in given)


def _code(error: Exception) -> int:
    return 2 if isinstance(error, ConfigurationError) else 1


def _sentence(error: Exception) -> str:
    if isinstance(error, IsocenterError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no room left on the disk{_place(error)}; free some space"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{_place(error)}"
    return f"unexpected {type(error).__name__}: run the command again with --debug to see where"


def _place(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _end(sentence: str, code: int, *, as_json: bool) -> int:
    if as_json:
        print_json({"status": "failed", "reason": sentence})
    say(sentence)
    return code
