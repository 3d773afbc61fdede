"""The command line: exit codes, one sentence on stderr, one document on stdout."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from ports import free_port
from pydicom import dcmread
from pynetdicom import AE, evt

from isocenter.arrivals import Arrivals, Verdict
from isocenter.cli import main, options
from isocenter.cli.output import groups_table, seconds_table
from isocenter.cli.validate import lines_of
from isocenter.database import prepare
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.pacs import ArchiveSeries
from isocenter.settings import Settings
from isocenter.stack import running
from isocenter.stack.running import exclusively, write
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.rules.problem import Problem
from isocenter_operators.testing import as_datasets, thorax_phantom

APP = """
from pathlib import Path
from isocenter_operators import errors
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.run import Outcome, StoredInstance

class App:
    def __init__(self, task):
        self.task = task

    def execute(self):
        print("a library talks")
        images = read_folder(self.task.source.path)
        if len(images) == 1:
            return Outcome("not_applicable", "no lungs in this series", (), (), (), {})
        if len(images) == 2:
            raise OSError(28, "No space left on device", "somewhere")
        if len(images) == 4:
            raise ZeroDivisionError("Doe^Jane")
        group = {"label": "Right lung", "notes": ["cut off"], "volume_mL": 2345.678, "laa_950_percent": 3.0}
        stored = StoredInstance("1.2", "2.25.1", "2.25.2", "1.2.3", "SEG", self.task.sink.path / "seg.dcm")
        return Outcome("done", "", (group,), ("of the study",), (stored,), {"read": 0.5})

def application(task):
    return App(task)
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with one application and nothing running."""
    folder = tmp_path / "apps" / "trivial"
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "app.yaml").write_text(yaml.safe_dump({"application": {"title": "T", "version": "1"}}))
    (tmp_path / "isocenter.yaml").write_text(
        "routes: [{name: CT, application: trivial, when: {Modality: CT}, min_instances: 3}]\n"
        "orthanc: {http_port: 9, dicom_port: 9}\n"  # the discard port: nobody listens there
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    phantom = thorax_phantom(size=(16, 16, count), spacing_mm=(22.0, 22.0, 60.0))
    for index, image in enumerate(as_datasets(phantom)):
        image.save_as(folder / f"{index}", enforce_file_format=True)
    return folder


def test_run_prints_a_summary(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "trivial", str(images(site / "in", 3)), "--out", "out"]) == 0
    out, err = capfd.readouterr()
    assert "volume (mL)  laa 950 (%)" in out
    assert "Right lung       2345.7          3.0" in out
    assert "Right lung: cut off" in out
    assert "note: of the study" in out
    assert "SEG  out/seg.dcm" in out
    assert "a library talks" not in out
    assert "a library talks" in err


def test_run_as_json_is_one_document(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "trivial", str(images(site / "in", 3)), "--out", "out", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["status"] == "done"
    assert document["groups"][0]["volume_mL"] == 2345.678
    assert document["results"][0]["path"] == "out/seg.dcm"


def test_not_applicable_is_an_outcome_and_no_fault(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = images(site / "in", 1)
    assert main(["run", "trivial", str(folder), "--out", "out"]) == 0
    assert capfd.readouterr().out == "not applicable: no lungs in this series\n"
    assert main(["run", "trivial", str(folder), "--out", "out", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["status"] == "not_applicable"


def test_bad_input_is_one_sentence(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (site / "empty").mkdir()
    (site / "text").mkdir()
    (site / "text" / "readme.txt").write_text("no image")
    truncated = images(site / "truncated", 3) / "1"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    for folder, sentence in (
        ("empty", "empty is empty: there are no DICOM files to read"),
        ("text", "no DICOM images in text: 1 files were looked at"),
        ("truncated", "truncated"),
    ):
        assert main(["run", "trivial", folder, "--out", "out", "--json"]) == 1
        out, err = capfd.readouterr()
        assert sentence in err
        assert "Traceback" not in err
        assert json.loads(out)["status"] == "failed"
        assert sentence in json.loads(out)["reason"]


def test_a_full_disk_and_a_surprise(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "trivial", str(images(site / "full", 2)), "--out", "out"]) == 1
    assert "no room left on the disk" in capfd.readouterr().err
    assert main(["run", "trivial", str(images(site / "odd", 4)), "--out", "out"]) == 1
    err = capfd.readouterr().err
    assert "trivial 1 ended unexpectedly: ZeroDivisionError in" in err
    assert "Doe" not in err


def test_an_output_that_is_no_folder(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (site / "out").write_text("a file")
    assert main(["run", "trivial", str(images(site / "in", 1)), "--out", "out"]) == 2
    assert capfd.readouterr().err == f"--out: out can not be written: {os.strerror(errno.EEXIST)}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nothing", ".", "--out", "out"], "there is no application 'nothing'"),
        (["run", "trivial"], "Missing argument 'PATH'"),
        (["run", "trivial", "nowhere", "--out", "out"], "Path 'nowhere' does not exist"),
        (["send", "nowhere"], "Path 'nowhere' does not exist"),
        (["demo", "--study", "nowhere"], "Path 'nowhere' does not exist"),
        (["rules", "explain", "nowhere"], "Path 'nowhere' does not exist"),
        (["validate", ".", "nowhere"], "Path 'nowhere' does not exist"),
        (["validate-site", "nowhere", "--app", "trivial", "--out", "out"], "'nowhere' does not exist"),
        (["validate-site", "isocenter.yaml", "--app", "trivial", "--out", "out"], "is a file"),
        (["map", "run", "x.oci", "-i", "nowhere", "-o", "out"], "Directory 'nowhere' does not exist"),
        (["map", "run", "x.oci", "-i", "isocenter.yaml", "-o", "out"], "'isocenter.yaml' is a file"),
        (["map", "lint", "nowhere.oci"], "nowhere.oci: there is no such file or folder"),
        (["map", "add", "nowhere.oci"], "Path 'nowhere.oci' does not exist"),
        (["map", "build", "nowhere", "-o", "x.oci"], "nowhere"),
        (["models", "import", "nowhere/x.zip"], "nowhere/x.zip"),
        (["fly"], "No such command 'fly'"),
        (["jobs", "--config", "none.yaml"], "none.yaml: can not be read"),
    ],
)
def test_wrong_usage_is_two(arguments: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert sentence in err
    assert out == ""


def test_sending_when_there_is_nothing_to_send_or_nobody_to_send_to(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "empty").mkdir()
    (site / "text").mkdir()
    (site / "text" / "readme.txt").write_text("no image")
    assert main(["send", "empty"]) == 1
    assert "empty is empty: there is nothing to send" in capfd.readouterr().err
    assert main(["send", "text"]) == 1
    assert capfd.readouterr().err == "no DICOM images in text: 1 file looked at, not DICOM\n"
    folder = str(images(site / "in", 1))
    assert main(["send", folder]) == 1
    assert "the archive ISOCENTER at 127.0.0.1:9 does not answer; is it running?" in capfd.readouterr().err
    assert main(["send", folder, "--stow"]) == 1
    assert "127.0.0.1:9" in capfd.readouterr().err


def test_rules_explain_says_which_fire_and_why_the_others_do_not(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "explain", str(images(site / "many", 3))]) == 0
    assert "CT: goes to trivial" in capfd.readouterr().out
    assert main(["rules", "explain", str(images(site / "few", 2)), "--json"]) == 0
    (series,) = json.loads(capfd.readouterr().out)
    (said,) = series["routes"]
    assert (said["route"], said["applications"], said["wanted"]) == ("CT", ["trivial"], False)
    assert said["reason"] == "2 instances, and should be 3 or more"


def test_rules_explain_says_what_was_decided_before_and_how_it_is_decided_again(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = images(site / "in", 3)
    assert main(["rules", "explain", str(folder)]) == 0
    assert "decided" not in capfd.readouterr().out  # without a database, and none is made
    settings = Settings.load()
    assert not Path("isocenter-data").exists()

    image = dcmread(next(folder.iterdir()))
    study_uid, series_uid = str(image.StudyInstanceUID), str(image.SeriesInstanceUID)
    prepare(settings)
    arrivals = Arrivals(settings.database)
    arrivals.record(1, [ArchiveSeries("r1", study_uid, series_uid, frozenset("abc"))], now=100.0)
    assert main(["rules", "explain", str(folder)]) == 0
    assert "decided" not in capfd.readouterr().out  # it is not decided yet
    (arrival,) = arrivals.settling()
    arrivals.judge("r1", [Verdict("CT", "trivial", "f" * 64, "", arrival.fingerprint)])
    arrivals.close(arrival)
    (site / "isocenter.yaml").write_text(
        "routes:\n"
        "  - {name: CT, application: trivial, when: {Modality: CT}}\n"
        "  - {name: new, application: trivial, when: {Modality: CT}}\n"
    )
    (verdict,) = arrivals.of_study(study_uid)[0].verdicts
    assert verdict.decided_at is not None
    at = f"{datetime.fromtimestamp(verdict.decided_at, UTC):%Y-%m-%d %H:%M} UTC"

    assert main(["rules", "explain", str(folder)]) == 0
    assert capfd.readouterr().out.splitlines()[1:] == [
        "  CT: goes to trivial; routine",
        f"    decided on {at}: job ffffffffffff",
        "  new: goes to trivial; routine",
        f"    decided on {at}, without a job: there was no such route; by itself it makes none now, "
        f"`isocenter rules apply --study {study_uid}` does",
    ]
    assert main(["rules", "explain", str(folder), "--json"]) == 0
    (told,) = json.loads(capfd.readouterr().out)
    assert [(each["route"], each["decided"][0]["job_id"]) for each in told["routes"]] == [
        ("CT", "f" * 64),
        ("new", None),
    ]


def test_rules_are_explained_beside_a_database_whose_folder_may_not_be_entered(
    site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images(site / "in", 3)
    kept = (site / "kept").resolve()
    monkeypatch.setenv("ISOCENTER_DATABASE_URL", f"sqlite:///{kept}/isocenter.sqlite")
    asked = Path.stat

    def refused(path: Path, **options: bool) -> os.stat_result:
        if kept in path.absolute().parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return asked(path, **options)

    monkeypatch.setattr(Path, "stat", refused)  # who may do everything is not kept out by the folder's mode
    assert main(["rules", "explain", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert "CT: goes to trivial" in out
    assert "whether anything was decided about it before is not known: " in err
    assert "Permission denied" in err


def test_rules_apply_wants_to_know_which_studies_and_that_the_service_knows_the_routes(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "apply"]) == 2
    assert "--study UID, or --since DATE" in capfd.readouterr().err
    assert main(["rules", "apply", "--study", "1.2"]) == 1
    assert "Orthanc at http://127.0.0.1:9 does not answer" in capfd.readouterr().err
    settings = Settings.load()
    with exclusively(settings):
        write(settings)
        assert main(["rules", "apply", "--study", "1.2", "--yes"]) == 1  # the same routes
        capfd.readouterr()
        (site / "isocenter.yaml").write_text("routes: []\northanc: {http_port: 9, dicom_port: 9}\n")
        assert main(["rules", "apply", "--study", "1.2", "--yes"]) == 2
        assert "was started with other routes: start it again" in capfd.readouterr().err


def test_rules_check_names_what_can_not_work(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "check"]) == 0
    (site / "isocenter.yaml").write_text("routes: [{name: r, application: trivial, when: {Modalty: CT}}]")
    assert main(["rules", "check"]) == 2
    assert (
        "isocenter.yaml:1:49: routes.0 (r): when.Modalty: not a DICOM keyword; did you mean Modality?"
        in capfd.readouterr().err
    )


def test_rules_are_those_of_the_file_and_servers_those_asked_for_though_a_stack_runs(
    site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Settings.load().model_copy(update={"routes": ()})
    with running.exclusively(started):
        running.write(started)
        assert main(["rules", "check"]) == 0
        assert "1 rule: nothing is wrong" in capfd.readouterr().out
        moved = options.running_settings(None)
        monkeypatch.setenv("ISOCENTER_TRITON__URL", "elsewhere:8001")
        asked = options.running_settings(None)
    assert (moved.routes, moved.triton.grpc_url) == ((), "127.0.0.1:8001")
    assert (asked.routes, asked.triton.grpc_url) == ((), "elsewhere:8001")


def test_what_is_wrong_several_times_is_told_once() -> None:
    scheme = Problem("warning", "dciodvfy", "Unrecognized defined term ")
    other = Problem("error", "file", "is not a DICOM object")
    assert lines_of([scheme, other, scheme]) == [
        "  warning: dciodvfy: Unrecognized defined term (2 times)",
        "  error: file: is not a DICOM object",
    ]


def test_validate_names_the_file_and_what_is_wrong(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (site / "readme.txt").write_text("no image")
    assert main(["validate", "readme.txt"]) == 1
    assert capfd.readouterr().out.startswith("readme.txt: 1 error")


def test_jobs_before_there_are_any(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 0
    assert "no jobs yet" in capfd.readouterr().out
    for ways in (["jobs", "list", "--json"], ["jobs", "--json"]):
        assert main(ways) == 0
        assert json.loads(capfd.readouterr().out) == {"jobs": []}
    assert main(["jobs", "show", "ffff"]) == 1
    assert "there is no job 'ffff'" in capfd.readouterr().err


def test_who_looks_at_jobs_need_not_have_the_secrets_of_others(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (site / "isocenter.yaml").open("a") as file:
        file.write("peers: {ris: {kind: webhook, url: 'http://ris'}}\n")
    for command in (["jobs"], ["rules", "check"], ["map", "list"]):
        assert main(command) == 0, command
    capfd.readouterr()
    assert main(["worker"]) == 2
    assert "peers.ris.secret: is missing: set ISOCENTER_PEERS__RIS__SECRET" in capfd.readouterr().err


def test_all_failed_jobs_are_run_again_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """As after a morning with a wrong password."""
    settings = Settings.load()
    jobs = Jobs(settings)
    assert jobs.list() == []  # which makes the database
    ledger = Ledger(settings.database)
    ids = {}
    for name, application in (("a", "trivial"), ("b", "trivial"), ("c", "other"), ("done", "trivial")):
        spec = JobSpec(Algorithm(application, "1", {}), "1.2", (f"1.2.{name}",), (f"1.2.{name}.1",), "CT")
        ids[name] = jobs.submit(spec)
        ledger.end(ids[name], "done" if name == "done" else "failed")
    assert main(["jobs", "retry"]) == 2
    assert main(["jobs", "retry", ids["a"], "--failed"]) == 2
    assert "the ID of one job, or --failed" in capfd.readouterr().err
    assert main(["jobs", "retry", "--failed", "--application", "other"]) == 0
    assert capfd.readouterr().out == "1 failed job will be run again\n"
    assert main(["jobs", "retry", "--failed", "--json"]) == 0
    assert [job["id"] for job in json.loads(capfd.readouterr().out)["jobs"]] == [ids["a"], ids["b"]]
    assert {job.id for job in jobs.list(state="queued")} == {ids["a"], ids["b"], ids["c"]}
    assert main(["jobs", "retry", "--failed"]) == 0
    assert capfd.readouterr().out == "0 failed jobs will be run again\n"
    jobs.close()


def test_the_doctor_fails_only_for_what_is_required(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    report = json.loads(capfd.readouterr().out)
    bad = [check for check in report["checks"] if check["required"] and not check["ok"]]
    assert report["healthy"] == (not bad)
    assert all(check["advice"] for check in bad)
    names = [check["what"] for check in report["checks"]]
    assert {"Python", "Orthanc", "tritonserver", "free disk", "port gateway.port"} <= set(names)
    (site / "isocenter.yaml").write_text("routes: [{name: r, application: gone}]")
    assert main(["doctor"]) == 1
    assert "there is no application 'gone' in apps_dir" in capfd.readouterr().out


def test_beside_a_stack_that_runs_the_doctor_judges_what_the_next_start_reads(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else who edits, asks the doctor and starts anew has an outage."""
    settings = Settings.load()
    with exclusively(settings):
        write(settings)
        (site / "isocenter.yaml").write_text("routes: [{name: r, application: gone}]")
        assert main(["doctor"]) == 1
    assert "there is no application 'gone' in apps_dir" in capfd.readouterr().out


def test_the_doctor_looks_for_the_folders_that_results_go_to(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "there").mkdir()
    (site / "isocenter.yaml").write_text(
        "peers: {share: {kind: folder, path: there}, lost: {kind: folder, path: nowhere}}"
    )
    assert main(["doctor", "--json"]) == 1
    checks = {each["what"]: each for each in json.loads(capfd.readouterr().out)["checks"]}
    assert checks["peer share"]["ok"]
    assert not checks["peer lost"]["ok"]
    assert "peers.lost.path" in checks["peer lost"]["advice"]


# pynetdicom leaves the socket of a connection that is refused to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
def test_the_doctor_asks_other_systems_and_sends_them_nothing(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []
    node = AE(ae_title="VNA")
    node.add_supported_context("1.2.840.10008.1.1")
    node.require_called_aet = True
    server = node.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_C_ECHO, lambda event: called.append(event.assoc.requestor.ae_title) or 0)],
    )
    with socket.create_server(("127.0.0.1", 0)) as ris:
        port, ris_port, silent = server.server_address[1], ris.getsockname()[1], free_port()
        peers = {
            "vna": {"kind": "dicom", "host": "127.0.0.1", "port": port, "aet": "VNA"},
            "mistaken": {"kind": "dicom", "host": "127.0.0.1", "port": port, "aet": "PACS"},
            "off": {"kind": "dicom", "host": "127.0.0.1", "port": silent, "aet": "PACS"},
            "ris": {"kind": "webhook", "url": f"http://127.0.0.1:{ris_port}/x?token=1", "secret": "s"},
            "web": {"kind": "dicomweb", "url": f"http://127.0.0.1:{silent}/dicom-web"},
            # Names that no machine can have.
            "unnamed": {"kind": "webhook", "url": "https://a..b/x", "secret": "s"},
            "nobody": {"kind": "dicom", "host": "a..b", "port": port, "aet": "VNA"},
        }
        (site / "isocenter.yaml").write_text(yaml.safe_dump({"peers": peers, "routes": []}))
        try:
            main(["doctor", "--json"])
        finally:
            server.shutdown()
        ris.settimeout(30)  # where it was not asked
        connection, _ = ris.accept()
        with connection:
            assert connection.recv(1) == b""
    checks = {
        each["what"].removeprefix("peer "): each for each in json.loads(capfd.readouterr().out)["checks"]
    }
    assert {name: checks[name]["ok"] for name in peers} == {
        "vna": True,
        "mistaken": False,
        "off": False,
        "ris": True,
        "web": False,
        "unnamed": False,
        "nobody": False,
    }
    assert "https://a..b:443 does not answer: " in checks["unnamed"]["seen"]
    assert "VNA at a..b:" in checks["nobody"]["seen"]
    assert called == ["ISOCENTER"]
    assert not any(checks[name]["required"] for name in peers)
    assert (
        "rejects the association of ISOCENTER: Called AE title not recognised" in checks["mistaken"]["seen"]
    )
    assert "PACS at 127.0.0.1:" in checks["off"]["seen"]
    assert "know ISOCENTER at this address" in checks["off"]["advice"]
    assert checks["web"]["seen"] == f"http://127.0.0.1:{silent} does not answer: Connection refused"
    assert "token" not in checks["ris"]["seen"]


def test_tables() -> None:
    groups = [{"label": "Both", "notes": [], "volume_mL": None, "mean_density_HU": -812.34}]
    assert groups_table(groups) == [
        "      volume (mL)  mean density (HU)",
        "Both            -             -812.3",
    ]
    differently = [{"label": "A", "volume_mL": 1.0}, {"label": "B", "length_mm": 2.0}]
    assert groups_table(differently)[0].split() == ["volume", "(mL)", "length", "(mm)"]
    assert seconds_table({"fetch": 0.5, "store": 1.25})[-1] == "all       1.75"


def test_the_command_line_starts_without_what_is_slow() -> None:
    program = (
        "import sys, isocenter.cli; "
        "print([name for name in ('monai', 'torch', 'dbos', 'pydicom', 'holoscan') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
