"""Which version of a model does whose work, what a version may become, and how two versions are compared."""

from __future__ import annotations

import json
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dbos import DBOSClient
from google.protobuf import text_format
from threshold_bundle import threshold_bundle
from tritonclient.grpc import model_config_pb2

from isocenter.bundles.model_config import instance_group, with_instances, with_versions
from isocenter.catalog import Catalog
from isocenter.cli import main, model_versions
from isocenter.cli.shadow_report import shadow_report, shadow_told
from isocenter.cli.version_report import arms_of, arms_told
from isocenter.job import Job, JobSpec
from isocenter.jobs import SERVICE, SHADOW_WORKFLOW, Jobs, serializer
from isocenter.serving import Canary, Serving, Servings
from isocenter.settings import Settings
from isocenter.shadows import ComparedSegment, Comparison, Run, Shadows
from isocenter.worker import attempt, shadowing
from isocenter.worker.shadowing import Shadowing
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError, DeadlineExceeded, InferenceUnavailable

ROOT = Path(__file__).parents[2]
UIDS = [f"1.2.826.0.1.{number}" for number in range(10_000)]


@pytest.mark.parametrize("share_percent", [0, 0.5, 10, 50, 100])
def test_a_canary_has_its_share_of_the_studies(share_percent: float) -> None:
    serving = Serving(active="1", canary=Canary(version="2", share_percent=share_percent))
    theirs = sum(serving.version_for("liver", uid) == "2" for uid in UIDS)
    expected, share = len(UIDS) * share_percent / 100, share_percent / 100
    assert abs(theirs - expected) <= 4 * math.sqrt(len(UIDS) * share * (1 - share))


def test_a_study_has_the_same_version_every_time_and_a_share_that_grows_lets_none_go() -> None:
    few, more = (Serving(active="1", canary=Canary(version="2", share_percent=share)) for share in (10, 40))
    chosen = {uid for uid in UIDS if few.version_for("liver", uid) == "2"}
    assert chosen == {uid for uid in UIDS if few.version_for("liver", uid) == "2"}
    assert chosen < {uid for uid in UIDS if more.version_for("liver", uid) == "2"}
    others = {uid for uid in UIDS if few.version_for("spleen", uid) == "2"}
    assert len(chosen & others) < 200  # another model's canary has other studies: some 100 of 1000 are both's


def test_what_a_version_becomes() -> None:
    first = Serving(active="1")
    second = first.with_shadow("2").promoted("2")
    assert (second.active, second.before, second.shadow) == ("2", "1", None)
    assert second.versions == ("1", "2")
    assert second.answering == {"1", "2"}  # what was begun with the version before is done with it
    assert second.model_copy(update={"keeps_earlier": False}).versions == ("2",)
    third = second.with_canary(Canary(version="10", share_percent=5)).promoted("10")
    assert (third.active, third.earlier, third.canary) == ("10", ("1", "2"), None)
    assert third.versions == ("2", "10")
    back = third.rolled_back()
    assert (back.active, back.earlier) == ("2", ("1",))
    assert "10" not in back.answering  # nothing that waits is done by what was taken back
    assert back.rolled_back().active == "1"
    shadowed = second.with_shadow("3")
    assert "3" in shadowed.versions
    assert "3" not in shadowed.answering
    assert second.with_shadow("1").roles("1") == ("before", "shadow")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda serving: serving.promoted("1"), "version 1 is the active one already"),
        (lambda serving: serving.rolled_back(), "there is none to go back to"),
        (lambda serving: serving.with_shadow("1"), "version 1 is the active"),
        (
            lambda serving: serving.with_shadow("3"),
            "version 3 is the canary: `isocenter models canary NAME off` first",
        ),
        (
            lambda serving: serving.with_canary(Canary(version="2", share_percent=5)),
            "version 2 is the shadow",
        ),
    ],
)
def test_what_a_version_can_not_become(change: Any, message: str) -> None:
    serving = Serving(active="1", shadow="2", canary=Canary(version="3", share_percent=10))
    with pytest.raises(ConfigurationError, match=message):
        change(serving)


def test_the_file_is_written_whole_and_one_that_is_wrong_is_named(tmp_path: Path) -> None:
    servings = Servings(tmp_path)
    assert servings.of("liver") is None
    with servings.changing("liver"):
        servings.write("liver", Serving(active="2", earlier=("1",)))
        with pytest.raises(ConfigurationError, match="another command"), Servings(tmp_path).changing("liver"):
            pass
    assert servings.of("liver") == Serving(active="2", earlier=("1",))
    assert {each.name for each in (tmp_path / "serving").iterdir()} == {"liver.json", "liver.lock"}
    for wrong in ("{", '{"active": "1", "shadow": "1"}', '{"active": "../1"}'):
        (tmp_path / "serving" / "liver.json").write_text(wrong)
        with pytest.raises(ConfigurationError, match=r"liver.json: can not be used"):
            servings.of("liver")


CONFIG = """# instance_group [ of no account ]
name: "liver {"
instance_group [
  { count: 3  # version_policy: {
    kind: KIND_CPU }
]
parameters [ { key: "device"  value: { string_value: "version_policy: { all {} }" } } ]
"""


def test_of_a_configuration_only_what_is_asked_for_changes() -> None:
    def parsed(text: str) -> Any:
        return text_format.Parse(text, model_config_pb2.ModelConfig())

    text = with_versions(with_versions(CONFIG, ["1"]), ["1", "3"])
    assert list(parsed(text).version_policy.specific.versions) == [1, 3]
    text = with_instances(text, 2, (0, 1))
    (group,) = parsed(text).instance_group
    assert (group.count, group.kind, list(group.gpus)) == (
        2,
        model_config_pb2.ModelInstanceGroup.KIND_GPU,
        [0, 1],
    )
    text = with_instances(text, 1)
    (group,) = parsed(text).instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    kept = [line for line in CONFIG.splitlines() if line.startswith(("#", "name", "parameters"))]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert list(parsed(text).version_policy.specific.versions) == [1, 3]
    assert instance_group(1) in text
    with pytest.raises(ConfigurationError, match="the brackets of instance_group do not close"):
        with_instances("instance_group [ { count: 1 }", 2)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data folder with one imported model, and no stack that runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apps").mkdir()
    content = {
        "data_dir": "data",
        "apps_dir": "apps",
        "triton": {"model_repository": str(ROOT / "triton_models")},
        "routes": [],
    }
    (tmp_path / "isocenter.yaml").write_text(json.dumps(content))
    bundle = threshold_bundle(tmp_path / "first", 300)
    assert main(["models", "import", str(bundle), "--name", "bone", "--instances", "2"]) == 0
    return Settings.load()


def command(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["models", *words, "--json"]) == code
    out, error = capsys.readouterr()
    return json.loads(out) if code == 0 else error


def config_of(settings: Settings) -> Any:
    text = (settings.data_dir / "models" / "bone" / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_commands_where_no_stack_runs(
    site: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = threshold_bundle(tmp_path / "second", 700, version="1.1.0")
    assert command(capsys, "import", str(second), "--name", "bone", "--as-version")["version"] == "2"
    assert list(config_of(site).version_policy.specific.versions) == [
        1
    ]  # a version without a role is not loaded
    catalog = Catalog.weighed(site)
    assert catalog.get("bone").algorithm.models == {"bone": "1"}

    changed = command(capsys, "canary", "bone", "2", "--share", "25")
    assert (changed["live"], changed["canary"]) == (False, {"version": "2", "share_percent": 25.0})
    assert list(config_of(site).version_policy.specific.versions) == [1, 2]
    assert config_of(site).instance_group[0].count == 2
    made = [catalog.for_study("bone", uid).algorithm for uid in UIDS[:60]]
    by_version = {each.models["bone"]: each for each in made}
    assert {name: each.version for name, each in by_version.items()} == {"1": "1.0.0", "2": "1.1.0"}
    assert len({each.weights["bone"] for each in by_version.values()}) == 2
    # Made once, and then kept to: the retry of a job asks for what it asked for before.
    (canary,) = {each.models["bone"] for each in made} - {"1"}
    theirs = next(uid for uid, each in zip(UIDS, made, strict=False) if each.models["bone"] == canary)
    command(capsys, "canary", "bone", "2", "--share", "0")
    assert catalog.for_study("bone", theirs).algorithm.models == {"bone": "1"}
    assert catalog.for_job(Algorithm("bone", "", {"bone": "2"}), theirs).algorithm == by_version["2"]
    command(capsys, "canary", "bone", "off")
    assert catalog.for_job(Algorithm("bone", "", {"bone": "2"}), theirs).algorithm == by_version["1"]

    command(capsys, "scale", "bone", "3", "--gpus", "0,1")
    command(capsys, "promote", "bone", "2")
    assert catalog.get("bone").algorithm == by_version["2"]
    assert (config_of(site).instance_group[0].count, list(config_of(site).instance_group[0].gpus)) == (
        3,
        [0, 1],
    )
    roles = {row["version"]: row["roles"] for row in command(capsys, "list")["models"]}
    assert roles == {"1": ["before"], "2": ["active"]}
    assert command(capsys, "unload", "bone", "--version", "1")["versions"] == ["2"]
    assert command(capsys, "rollback", "bone")["versions"] == ["1"]
    command(capsys, "unload", "bone")
    assert Catalog.of(site).models == ()
    command(capsys, "load", "bone")
    assert Catalog.of(site).models == ("bone",)

    third = threshold_bundle(tmp_path / "third", 900, version="1.2.0")
    with Servings(site.data_dir).changing("bone"):
        assert "another command changes the versions of bone" in command(
            capsys, "import", str(third), "--name", "bone", "--as-version", code=2
        )
    (site.data_dir / "serving" / "bone.json").write_text("{")  # also what is broken can be taken away
    command(capsys, "remove", "bone")
    assert not (site.data_dir / "serving" / "bone.json").exists()


def test_one_version_is_deleted_where_nothing_needs_it(
    site: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, above_hu in (("second", 700), ("third", 900)):
        bundle = threshold_bundle(tmp_path / name, above_hu, version="1.1.0")
        command(capsys, "import", str(bundle), "--name", "bone", "--as-version")

    def refused(version: str) -> str:
        told = str(command(capsys, "remove", "bone", "--version", version, code=2))
        assert (site.data_dir / "models" / "bone" / version).is_dir() == (version != "9")
        return told

    assert "there is no version 9 of bone" in refused("9")
    assert "version 1 is the active one: `isocenter models promote NAME` another one" in refused("1")
    command(capsys, "shadow", "bone", "2")
    assert "version 2 is the shadow: `isocenter models shadow NAME off` first" in refused("2")
    command(capsys, "shadow", "bone", "off")
    command(capsys, "canary", "bone", "2", "--share", "5")
    assert "version 2 is the canary: `isocenter models canary NAME off` first" in refused("2")
    command(capsys, "promote", "bone", "2")
    assert "one that a rollback makes active: `isocenter models unload NAME --version 1`" in refused("1")

    first = Catalog.weighed(site).with_version("bone", "bone", "1").algorithm
    spec = JobSpec(first, "1.2.3", ("1.2.3.4",), ("1.2.3.4.5",), "all")
    second = Catalog.weighed(site).with_version("bone", "bone", "2").algorithm
    newer = JobSpec(second, "1.2.4", ("1.2.4.4",), ("1.2.4.4.5",), "all")
    monkeypatch.setattr(model_versions, "_JOBS_LOOKED_AT", 1)  # as many as a report looks at
    jobs = Jobs(site)
    try:
        job_id = jobs.submit(spec)
        jobs.submit(newer)
        command(capsys, "unload", "bone", "--version", "1")
        assert f"job {job_id[:12]} is to be done by version 1 of bone" in refused("1")
        jobs.cancel(job_id)
    finally:
        jobs.close()
    removed = command(capsys, "remove", "bone", "--version", "1")
    assert (removed["removed"], removed["version"], removed["live"]) == ("bone", "1", False)
    assert removed["freed_mb"] > 0
    assert sorted(each.name for each in (site.data_dir / "models" / "bone").iterdir()) == [
        *("2", "3", "config.pbtxt")
    ]
    assert "there is none to go back to" in command(capsys, "rollback", "bone", code=2)
    assert Catalog.weighed(site).get("bone").algorithm.models == {"bone": "2"}
    assert [row["version"] for row in command(capsys, "list")["models"]] == ["2", "3"]

    shadows = Shadows(site.data_dir)
    shadows.begin("bone", "3", "0" * 64)
    shared = site.data_dir / "models" / "bone" / "3" / "shared"  # with a variant, as its weights are
    shared.write_bytes(bytes(3_000_000))
    os.link(shared, tmp_path / "shared")
    assert command(capsys, "remove", "bone", "--version", "3")["freed_mb"] < 3
    assert shadows.versions("bone") == ()
    assert not list((site.data_dir / "models").glob(".*"))
    # Jobs and reports know versions by their numbers: the next one is another.
    fourth = threshold_bundle(tmp_path / "fourth", 500, version="1.2.0")
    assert command(capsys, "import", str(fourth), "--name", "bone", "--as-version")["version"] == "4"
    assert Catalog.weighed(site).with_version("bone", "bone", "4").version == "1.2.0"


def test_each_of_two_models_of_an_application_has_its_shadow(site: Settings) -> None:
    spec = JobSpec(
        algorithm=Algorithm("both", "1.0", {"bone": "1", "liver": "1"}),
        study_uid="1.2.3",
        series_uids=("1.2.3.4",),
        sop_instance_uids=("1.2.3.4.5",),
        route="all",
    )
    jobs = Jobs(site)
    try:
        for model in ("bone", "liver", "bone"):
            jobs.shadow(spec, model, "2", {"state": "done"})
    finally:
        jobs.close()
    client = DBOSClient(system_database_url=site.database, serializer=serializer(), application_name=SERVICE)
    try:
        asked = [row.input["args"][1] for row in client.list_workflows(name=SHADOW_WORKFLOW)]
    finally:
        client.destroy()
    assert sorted(asked) == ["bone", "liver"]


@pytest.mark.parametrize(("model", "ended"), [("bone", 1), (None, 0)])
def test_of_a_shadow_that_fails_no_images_stay_and_only_its_own_call_is_ended(
    site: Settings, monkeypatch: pytest.MonkeyPatch, model: str | None, ended: int
) -> None:
    def late(_: Shadowing, folder: Path) -> Any:
        (folder / "priors").mkdir(exist_ok=True)
        (folder / "priors" / "image.dcm").write_bytes(b"of the patient")
        raise DeadlineExceeded("no answer in time", model=model)  # without a model it was the archive's

    calls: list[str] = []
    monkeypatch.setattr(Shadowing, "_run", late)
    monkeypatch.setattr(Shadowing, "_end_call", lambda self, *_: calls.append(self.version))
    monkeypatch.setattr(shadowing, "_PAUSE_S", 0.0)
    Servings(site.data_dir).write("bone", Serving(active="1", shadow="2"))
    spec = JobSpec(
        algorithm=Algorithm("bone", "1.0", {"bone": "1"}),
        study_uid="1.2.3",
        series_uids=("1.2.3.4",),
        sop_instance_uids=("1.2.3.4.5",),
        route="all",
    )
    none: Any = None
    assert Shadowing(site, none, spec, "bone", "2", {"state": "done"}).run() == "failed"
    (found,) = Shadows(site.data_dir).of("bone", "2")
    assert found.shadow.reason == "no answer in time"
    assert len(calls) == ended
    assert [file.name for file in (site.data_dir / "shadow").rglob("*") if file.is_file()] == [
        "comparison.json"
    ]


def test_no_images_are_fetched_for_a_model_that_is_out_of_service(
    site: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    command(capsys, "unload", "bone")
    spec = JobSpec(
        algorithm=Catalog.weighed(site).get("bone").algorithm,
        study_uid="1.2.3",
        series_uids=("1.2.3.4",),
        sop_instance_uids=("1.2.3.4.5",),
        route="all",
    )
    work = SimpleNamespace(settings=site)
    with pytest.raises(InferenceUnavailable, match="`isocenter models load bone` puts it back"):
        attempt._run(work, spec, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"label": "spleen"}, "1 of its labels is 'spleen', and not 'bone'"),
        ({"modality": "MR"}, "its accepts.modalities is ['MR'], and not ['CT']"),
        # Else a version that is for less would be given what the first one is for.
        (
            {"accepts": {"body_regions": {"chest": 60}}},
            "its accepts.body_regions is {'chest': 60}, and not None",
        ),
    ],
)
def test_a_version_that_finds_something_else_is_another_application(
    site: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: Any, difference: str
) -> None:
    other = threshold_bundle(tmp_path / "other", 500, **changed)
    told = command(capsys, "import", str(other), "--name", "bone", "--as-version", code=2)
    assert f"this bundle is no version of 'bone': {difference}" in told
    assert sorted(each.name for each in (site.data_dir / "models" / "bone").iterdir()) == [
        "1",
        "config.pbtxt",
    ]
    assert not (site.data_dir / "apps" / "bone" / "versions").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("promote", "bone", "7"), 2, "there is no version 7 of bone, only 1"),
        (("promote", "bone", "x"), 2, "there is no version x of bone, only 1"),
        (("shadow", "bone", "../x"), 2, "there is no version"),
        (("rollback", "bone"), 2, "there is none to go back to"),
        (("promote", "nothing", "2"), 2, "no application has a model 'nothing'"),
        (("canary", "bone", "2"), 2, "--share says of how many studies"),
        (("canary", "bone", "x", "--share", "5"), 2, "there is no version x of bone"),
        (("unload", "bone", "--version", "1"), 2, "version 1 of bone is the active"),
        (("scale", "bone", "2", "--gpus", "a"), 2, "numbers are expected"),
    ],
)
def test_what_is_refused_says_why(
    site: Settings, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, message: str
) -> None:
    assert message in command(capsys, *words, code=code)
    assert Servings(site.data_dir).of("bone") is None


def compared(number: int, dice: float | None, shown_ml: float, shadow_ml: float) -> Comparison:
    return Comparison(
        job_id=f"{number:064x}",
        study_uid=f"1.2.{number}",
        ended=float(number),
        shown=Run(version="1", state="done", inference_s=1.0 + number),
        shadow=Run(version="2", state="done", inference_s=2.0 + number),
        segments=(ComparedSegment(label="liver", dice=dice, shown_ml=shown_ml, shadow_ml=shadow_ml),),
    )


def test_a_shadows_report_names_the_worst_study() -> None:
    failed = compared(9, None, 0, 0).model_copy(
        update={
            "shadow": Run(version="2", state="failed", reason="out of memory"),
            "segments": (),
            "not_compared": "the shadow has failed",
        }
    )
    report = shadow_report(
        "2",
        [
            compared(1, 0.9, 100, 110),
            compared(2, 0.4, 50, 20),
            compared(3, 0.8, 80, 82),
            compared(4, None, 0, 0),
            failed,
        ],
    )
    (liver,) = report.segments
    assert (liver.n, liver.dice_median, liver.dice_worst, liver.worst_study_uid) == (3, 0.8, 0.4, "1.2.2")
    assert (liver.difference_ml_median, liver.difference_ml_largest) == (2, -30)
    assert (report.compared, report.shadow_failed, report.shown_failed) == (4, 1, 0)
    assert (report.shown_s, report.shadow_s) == (3.5, 4.5)
    told = "\n".join(shadow_told(report))
    assert "1.2.9: shadow: out of memory" in told
    assert json.loads(json.dumps(report.as_json()))["segments"][0]["worst_study_uid"] == "1.2.2"
    assert shadow_report("2", []).segments == []
    assert shadow_told(shadow_report("2", []))


def job(number: int, version: str, state: Any, seconds: float, volume_ml: float) -> Job:
    return Job(
        id=f"{number:064x}",
        state=state,
        application="liver",
        route="r",
        priority="routine",
        study_uid=f"1.2.{number}",
        series_uids=(),
        created=datetime.now(UTC),
        ended=datetime.now(UTC),
        attempts=1,
        groups=({"label": "liver", "volume_mL": volume_ml},) if state == "done" else (),
        seconds={"inference": seconds},
        models={"liver": version},
    )


def test_a_canarys_arms_stand_side_by_side() -> None:
    jobs = [job(n, "1", "done", float(n), 100.0 + n) for n in range(1, 5)]
    jobs += [job(5, "2", "done", 9, 50), job(6, "2", "failed", 1, 0), job(7, "2", "not_applicable", 1, 0)]
    jobs += [job(8, "2", "cancelled", 1, 0), job(9, "2", "running", 1, 0)]
    one, two = arms_of(jobs, "liver", {"1": "active", "2": "canary"})
    assert (one.studies, one.done, one.p50_s) == (4, 4, 2.5)
    assert one.medians == {"liver": {"volume_mL": 102.5}}
    assert one.p95_s == pytest.approx(3.85)
    assert (two.jobs, two.done, two.failed, two.not_applicable) == (3, 1, 1, 1)
    told = arms_told([one, two])
    assert "version 2 (canary)" in told[0]
    assert "different studies" in told[-1]


def test_what_shadows_leave_is_bounded(tmp_path: Path) -> None:
    shadows = Shadows(tmp_path)
    for number in (1, 2, 3):
        found = compared(number, 0.9, 1, 1)
        folder = shadows.begin("liver", "2", found.job_id)
        assert folder is not None
        assert shadows.begin("liver", "2", found.job_id) is None
        (folder / "seg.dcm").write_bytes(bytes(600_000))
        shadows.write("liver", found)
        os.utime(folder / "comparison.json", (time.time() - 100 + number,) * 2)
    shadows.trim(kept_days=1, kept_mb=1)
    kept = sorted(file.parent.name[-1] for file in tmp_path.rglob("seg.dcm"))
    assert kept == ["3"]  # of the others what was found of them stays
    assert [each.study_uid for each in shadows.of("liver", "2")] == ["1.2.1", "1.2.2", "1.2.3"]
    assert shadows.versions("liver") == ("2",)
    shadows.trim(kept_days=50 / 86_400, kept_mb=1)
    assert shadows.of("liver", "2") == []


@pytest.mark.parametrize("package", ["ct_lung_density/1/lung_density", "monai_bundle/1/bundle_engine"])
def test_each_instance_has_the_device_that_triton_gives_it(package: str) -> None:
    scope: dict[str, Any] = {}
    exec((ROOT / "triton_models" / package / "device.py").read_text(), scope)
    device_of = scope["device_of"]
    assert device_of("auto", "GPU", "1", available=2) == "cuda:1"
    assert device_of("cuda", "GPU", "0", available=2) == "cuda:0"
    assert device_of("cuda", "CPU", "0", available=2) == "cuda:0"
    assert device_of("auto", "CPU", "0", available=2) == "cpu"
    assert device_of("cpu", "GPU", "1", available=2) == "cpu"
    assert device_of("auto", "GPU", "0", available=0) == "cpu"
    for wanted, number, available, message in (
        ("cuda", "0", 0, "torch finds no CUDA device"),
        ("auto", "2", 2, "GPU 2, and torch sees 2"),
        ("tpu", "0", 1, "use auto, cpu or cuda"),
    ):
        with pytest.raises(ValueError, match=message):
            device_of(wanted, "GPU", number, available=available)


def test_an_algorithm_is_the_one_that_its_run_is_told_to_use() -> None:
    said = Algorithm("liver", "1.0", {"net": "1", "other": "4"}, weights={"other": "b"})
    run = Algorithm("liver", "1.1", {"net": "2", "third": "1"}, weights={"net": "a", "third": "c"})
    used = said.as_run(run)
    assert used == Algorithm("liver", "1.1", {"net": "2", "other": "4"}, weights={"other": "b", "net": "a"})
    assert said.as_run(None) is said
    assert np.unique([each.device_uid for each in (said, used, run)]).size == 3
