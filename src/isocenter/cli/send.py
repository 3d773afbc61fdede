"""`isocenter send`."""

from __future__ import annotations

from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, say

__all__ = ["command"]


@click.command()
@click.argument("path", type=options.existing_path)
@click.option("--aet", help="The archive's application entity title; orthanc.aet when not given.")
@click.option("--stow", is_flag=True, help="By STOW-RS instead of C-STORE.")
@options.config
@options.json_option
def command(path: Path, aet: str | None, stow: bool, config: Path | None, as_json: bool) -> int:
    """Send the DICOM files below PATH to the archive. 1 when one of them could not be sent."""
    from isocenter.cli.sending import send

    settings = options.running_settings(config, secrets=["orthanc"])
    sent = send(path, settings, aet=aet, stow=stow)
    for file, reason in sent.skipped.items():
        say(f"not sent: {file}: {reason}")
    if sent.not_dicom:
        more = " and others" if len(sent.not_dicom) > 1 else ""
        say(f"{counted(len(sent.not_dicom), 'file')} passed over, not DICOM: {sent.not_dicom[0].name}{more}")
    if as_json:
        print_json(sent.as_json())
    else:
        studies = counted(len(sent.study_uids), "study", "studies")
        say(f"{counted(sent.count, 'file')} of {studies} sent to {sent.where}")
    return 0 if sent.count and not sent.skipped else 1
