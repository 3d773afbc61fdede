"""The one configuration file, and the environment before it."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sqlalchemy import make_url

from isocenter.peer import DICOMwebPeer
from isocenter.route import Route
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "isocenter.yaml"
    path.write_text("orthanc: {http_port: 9042, aet: SITE}\nrouting: {settle_s: 2}\n")
    return path


def test_the_file_before_the_defaults_and_the_environment_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(file)
    assert (settings.orthanc.http_port, settings.orthanc.dicom_port) == (9042, 4242)
    assert settings.orthanc.dicomweb_url == "http://127.0.0.1:9042/dicom-web"
    monkeypatch.setenv("ISOCENTER_ORTHANC__HTTP_PORT", "1042")
    overridden = Settings.load(file)
    assert (overridden.orthanc.http_port, overridden.orthanc.aet) == (1042, "SITE")


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("", "-c idle_in_transaction_session_timeout=15s"),
        ("?options=-c%20work_mem%3D8MB", "-c work_mem=8MB -c idle_in_transaction_session_timeout=15s"),
        ("?options=-c%20idle_in_transaction_session_timeout%3D0", "-c idle_in_transaction_session_timeout=0"),
    ],
)
def test_a_frozen_process_gives_its_locks_back(given: str, options: str) -> None:
    url = make_url(Settings(database_url=f"postgresql://reader:p%40ss@db/isocenter{given}").database)
    assert (url.query["options"], url.password, url.host, url.database) == (
        options,
        "p@ss",
        "db",
        "isocenter",
    )


def test_no_file_is_no_fault_unless_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load().gateway.port == 8080
    with pytest.raises(ConfigurationError, match=r"other.yaml: can not be read: No such file"):
        Settings.load(Path("other.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "orthanc: {htp_port: 1}",
            r"isocenter.yaml:1:11: orthanc.htp_port: there is no such key; did you mean http_port\?",
        ),
        ("orhtanc: {}", r"isocenter.yaml:1:1: orhtanc: there is no such key; did you mean orthanc\?"),
        ("gateway: {port: many}", r"gateway.port: Input should be a valid integer"),
        (
            "orthanc: {username: u}",
            r"1:1: orthanc.password: is missing beside username: set ISOCENTER_ORTHANC__PASSWORD, or "
            r"ISOCENTER_ORTHANC__PASSWORD_FILE to the file that it stands in$",
        ),
        (
            "peers:\n  ris: {kind: webhook, url: 'http://h'}",
            r"2:3: peers.ris.secret: is missing: set ISOCENTER_PEERS__RIS__SECRET, or "
            r"ISOCENTER_PEERS__RIS__SECRET_FILE to the file that it stands in$",
        ),
        (
            "peers:\n  RIS: {kind: orthanc, url: 'http://h', username: u}",  # no variable means RIS
            r"2:3: peers.RIS.password: is missing beside username$",
        ),
        (
            "peers:\n  my__ris: {kind: webhook, url: 'http://h'}",  # nor my__ris
            r"2:3: peers.my__ris.secret: is missing$",
        ),
        ("orthanc: {url: pacs}", r"orthanc.url: .*should be like http://pacs:8042"),
        (
            "orthanc: {url: 'http://pacs:99999'}",
            r"1:11: orthanc.url: the port should be a number from 1 to 65535$",
        ),
        (
            "peers:\n  ris: {kind: webhook, url: 'https://ris:99999/x', secret: s}",
            r"2:24: peers.ris.url: the port should be a number from 1 to 65535$",
        ),
        (
            "peers:\n  vna: {kind: dicomweb, url: 'http://u:80a/b@vna'}",  # as of a password with a slash
            r"2:25: peers.vna.url: the port should be a number from 1 to 65535$",
        ),
        ("- a list", r"expected keys and values at the top, found list"),
        ("a: [", r"isocenter.yaml:1:5: not valid YAML: "),
        ("gateway:\n  port: 1\n\tohif: x", r"isocenter.yaml:3:1: not valid YAML: "),
        ("a: b\nx: \x07", r"isocenter.yaml:2:4: not valid YAML: unacceptable character"),
        ("gateway:\n  port: 1\n  port: 2", r"isocenter.yaml:3:3: the key port stands in line 2 already"),
        ("routes: &a [*a]", r"isocenter.yaml:1:9: an alias inside of what it stands for"),
        ("1: 2", r"1 is no key; write it in quotes"),
        ("gateway: {port: " + "9" * 5000 + "}", r"can not be read as settings"),
        ("worker:\n  concurrency: 0", r"isocenter.yaml:2:3: worker.concurrency: Input should be greater"),
        (
            "routes:\n  - {name: r, application: a, wen: {}}",
            r"yaml:2:31: routes.0.wen: .*did you mean when\?",
        ),
        ("routes:\n  - {name: r}", r"isocenter.yaml:2:5: routes.0.applications: is missing$"),
        (
            "routes:\n  - {name: r, application: 'map://a:latest'}",
            r"isocenter.yaml:2:15: routes.0.application: 'map://a:latest': name a package by its digest",
        ),
        ("routes:\n  - {name: r, applications: [a, [b]]}", r"2:33: routes.0.applications.1: Input should be"),
        (
            "routes:\n  - {name: r, application: [1]}",
            r"isocenter.yaml:2:29: routes.0.application: Input should be",
        ),
        (
            "routes:\n  - {name: r, application: a, priority: {STATT: {}}}",
            r"isocenter.yaml:2:42: routes.0.priority",
        ),
        (
            "peers:\n  vna: {kind: dicom, host: h, prot: 4, aet: A, port: 1}",
            r"isocenter.yaml:2:31: peers.vna.prot: there is no such key; did you mean port\?",
        ),
        (
            "routes:\n  - {name: r, application: a, priority: STATT}",
            r"isocenter.yaml:2:31: routes.0.priority: Input should be 'STAT', 'urgent', 'routine' or 'batch'$",
        ),
        (
            "routes:\n  - {name: r, application: a, priority: {STATT: {}}}",
            r"2:42: routes.0.priority.STATT: Input should be 'STAT', 'urgent', 'routine' or 'batch'$",
        ),
        (
            "routes:\n  - {name: r, application: a, hours: {start: 20, end: 6}}",
            r"isocenter.yaml:2:39: routes.0.hours.start: 20 is no time of day like 20:00",
        ),
        (
            "routes:\n  - {name: r, application: a, hours: {start: 20:00Z, end: 06:00}}",
            r"isocenter.yaml:2:39: routes.0.hours.start: '20:00Z' is no time of day like 20:00",
        ),
        (
            "routes:\n  - {name: r, application: a, hours: {start: 20:00, end: '24:00'}}",
            r"isocenter.yaml:2:53: routes.0.hours.end: '24:00' is no time of day",
        ),
        (
            "routes:\n  - {name: r, application: a, hours: {start: 20:00, end: true}}",
            r"isocenter.yaml:2:53: routes.0.hours.end: True is no time of day",
        ),
        (
            "routes:\n  - {name: r, application: a, settle_s: .inf}",
            r"isocenter.yaml:2:31: routes.0.settle_s: Input should be a finite number",
        ),
        ("routing: {compare_every_s: .nan}", r"1:11: routing.compare_every_s: Input should be a finite num"),
        (
            "peers:\n  vna: {kind: folder, path: /x}\nroutes:\n"
            "  - name: r\n    application: a\n    destinations: [vna, vma]",
            r"6:25: routes.0.destinations.1: route 'r' names a peer 'vma', and peers has none of this name; did "
            r"you mean vna\?$",
        ),
        (
            "routes:\n  - {name: r, application: a, priors: {source: vna}}",
            r"2:40: routes.0.priors.source: route 'r' names a peer 'vna'",
        ),
        (
            "peers: {vna: {kind: folder, path: /x}}\nroutes: [{name: r, application: a, priors: {source: vna}}]",
            r"2:45: routes.0.priors.source: route 'r' wants priors from 'vna', which is of kind folder",
        ),
        ("worker:\n  processes: 2", r"isocenter.yaml:2:3: worker.processes: more than one needs PostgreSQL"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        Settings.load(file)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (
            "ISOCENTER_ORTHANK__HTTP_PORT",
            r"ORTHANK__HTTP_PORT: there is no such setting; did you mean ISOCENTER_ORTHANC__HTTP_PORT\?",
        ),
        ("ISOCENTER_ORTHANC_HTTP_PORT", r"no such setting; did you mean ISOCENTER_ORTHANC__HTTP_PORT\?"),
        (
            "ISOCENTER_WORKER__CONCURRENCY",
            r"variable ISOCENTER_WORKER__CONCURRENCY: Input should be a valid int",
        ),
        (
            "ISOCENTER_ORTHANC__HTP_PORT",
            r"variable ISOCENTER_ORTHANC__HTP_PORT: there is no such key; did you mean http_port\?",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "one")
    with pytest.raises(ConfigurationError, match=message):
        Settings.load()


@pytest.mark.parametrize("content", [None, "gateway: {port: 8081}", "peers: {old: {kind: folder, path: /x}}"])
@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ORTHANC__USERNAME": "u"}, "orthanc.password"),
        ({"PEERS__RIS__KIND": "webhook", "PEERS__RIS__URL": "http://ris"}, "peers.ris.secret"),
        ({"PEERS": '{"ris": {"kind": "webhook", "url": "http://ris"}}'}, "peers.ris.secret"),
        (
            {"PEERS": '{"vna": {"kind": "orthanc", "url": "http://vna", "username": "u"}}'},
            "peers.vna.password",
        ),
    ],
)
def test_the_variable_named_for_a_missing_secret_sets_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: str | None,
    environment: dict[str, str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "isocenter.yaml").write_text(content)
    for name, value in environment.items():
        monkeypatch.setenv(f"ISOCENTER_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        Settings.load()
    variable = "ISOCENTER_" + named.upper().replace(".", "__")
    (line,) = str(refused.value).splitlines()
    assert f": {named}: is missing" in line
    assert line.endswith(f": set {variable}, or {variable}_FILE to the file that it stands in")
    monkeypatch.setenv(variable, "hidden")
    Settings.load()


def test_what_is_wrong_with_a_peer_of_the_environment_is_named_without_its_kind(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_PEERS__SHARE__KIND", "folder")
    with pytest.raises(ConfigurationError, match=r"isocenter.yaml: peers.share.path: is missing$"):
        Settings.load(file)


def test_a_secret_stands_in_a_file_of_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("hidden\n")
    file.write_text("peers: {vna: {kind: dicomweb, url: 'https://vna', username: u, password: old}}")
    monkeypatch.setenv("ISOCENTER_ORTHANC__USERNAME", "u")
    monkeypatch.setenv("ISOCENTER_ORTHANC__PASSWORD_FILE", str(secret))
    monkeypatch.setenv("ISOCENTER_DATABASE_URL_FILE", str(secret))
    monkeypatch.setenv("ISOCENTER_PEERS__VNA__PASSWORD_FILE", str(secret))
    monkeypatch.setenv("ISOCENTER_SITE_FILE", "/somebody/elses")
    settings = Settings.load(file)
    assert settings.orthanc.credentials is not None
    assert settings.orthanc.credentials.password == "hidden"
    assert settings.database_url == "hidden"
    peer = settings.peers["vna"]
    assert isinstance(peer, DICOMwebPeer)
    assert peer.password is not None
    assert peer.password.get_secret_value() == "hidden"


@pytest.mark.parametrize(
    ("variable", "content", "message"),
    [
        (
            "ISOCENTER_ORTHANC__PASSWORD_FILE",
            None,
            r"ISOCENTER_ORTHANC__PASSWORD_FILE: .* can not be read: No such",
        ),
        ("ISOCENTER_ORTHANC__PASSWORD_FILE", b"\n", r"ISOCENTER_ORTHANC__PASSWORD_FILE: .* is empty"),
        ("ISOCENTER_ORTHANC__PASSWORD_FILE", b"\xff", r"PASSWORD_FILE: .* is no text in UTF-8"),
        ("ISOCENTER_ORTHANC__PASSWORD_FILE", b"x" * 70_000, r"PASSWORD_FILE: .* is larger than 64 KiB"),
        (
            "ISOCENTER_GATEWAY__PORT_FILE",
            b"many",
            r"variable ISOCENTER_GATEWAY__PORT_FILE: Input should be a valid int",
        ),
        (
            "ISOCENTER_ORTHANK__PASSWORD_FILE",
            b"x",
            r"no such setting; did you mean ISOCENTER_ORTHANC__PASSWORD\?",
        ),
        (
            "ISOCENTER_TRITON__URL_FILE",
            b"x",
            r"ISOCENTER_TRITON__URL and ISOCENTER_TRITON__URL_FILE: set one of them",
        ),
    ],
)
def test_what_is_wrong_with_a_secrets_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: bytes | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    if "TRITON" in variable:
        monkeypatch.setenv("ISOCENTER_TRITON__URL", "triton:8001")
    monkeypatch.setenv(variable, str(tmp_path / "secret"))
    with pytest.raises(ConfigurationError, match=message):
        Settings.load()


def test_secrets_that_are_not_used_may_be_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (
        "orthanc: {url: 'http://pacs:8042', username: us}\n"
        "peers:\n"
        "  ris: {kind: webhook, url: 'http://ris'}\n"
        "  vna: {kind: dicomweb, url: 'http://vna', username: us}\n"
    )
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"orthanc.password: is missing") as refused:
        Settings.load(file)
    assert len(str(refused.value).splitlines()) == 3
    with pytest.raises(ConfigurationError, match=r"orthanc.password: is missing") as refused:
        Settings.load(file, secrets=["orthanc"])
    assert "peers" not in str(refused.value)
    settings = Settings.load(file, secrets=())
    assert settings.orthanc.url == "http://pacs:8042"
    assert [*settings.peers] == ["ris", "vna"]
    monkeypatch.setenv("ISOCENTER_ORTHANC__PASSWORD", "known")
    credentials = Settings.load(file, secrets=["orthanc"]).orthanc.credentials
    assert credentials is not None
    assert credentials.password == "known"
    file.write_text(content + "  old: {kind: folder}\n")
    with pytest.raises(ConfigurationError, match=r"peers.old.path: is missing$"):
        Settings.load(file, secrets=())


@pytest.mark.parametrize("content", ["orthanc:\npeers:\n", "peers: {ris: }"])
def test_secrets_that_are_not_used_may_be_missing_beside_empty_sections(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    file.write_text(content)
    monkeypatch.setenv("ISOCENTER_ORTHANC__USERNAME", "us")
    monkeypatch.setenv("ISOCENTER_PEERS", '{"ris": {"kind": "webhook", "url": "http://ris"}}')
    settings = Settings.load(file, secrets=())
    assert settings.orthanc.username == "us"
    assert [*settings.peers] == ["ris"]


@pytest.mark.parametrize("content", ["orthanc: 3", "orthanc: [1]", "peers: 3", "peers: {ris: 3}"])
def test_a_section_that_is_none_is_refused_whatever_secrets_are_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    file.write_text(content)
    monkeypatch.setenv("ISOCENTER_ORTHANC__USERNAME", "us")
    monkeypatch.setenv("ISOCENTER_PEERS", '{"ris": {"kind": "webhook", "url": "http://ris"}}')
    with pytest.raises(ConfigurationError, match=r"(orthanc.password|peers.ris.secret): is missing"):
        Settings.load(file, secrets=())


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOCENTER_TEST_DATA", "/data")
    # As Kubernetes tells the pods of a namespace with a service named isocenter-gateway.
    monkeypatch.setenv("ISOCENTER_GATEWAY_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("ISOCENTER_GATEWAY_SERVICE_HOST", "10.0.0.1")
    assert Settings.load().gateway.port == 8080


def test_a_password_does_not_show() -> None:
    settings = Settings(orthanc={"username": "u", "password": "hidden"})
    assert "hidden" not in f"{settings!r} {settings.model_dump_json()}"


def test_the_database_is_in_the_data_folder_unless_it_is_elsewhere(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).database == f"sqlite:///{tmp_path / 'isocenter.sqlite'}"
    assert Settings(database_url="postgresql://db/x").database.startswith("postgresql://db/x?")


def test_a_password_in_the_archives_address_is_refused_and_not_repeated(file: Path) -> None:
    file.write_text("orthanc: {url: 'http://u:hidden@pacs:8042'}")
    with pytest.raises(ConfigurationError, match="must not hold a password") as refused:
        Settings.load(file)
    assert "hidden" not in str(refused.value)


def test_the_page_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "configuration.md").read_text()
    listed, everything = (yaml.safe_load(block.split("```")[0]) for block in page.split("```yaml")[1:])
    every_default = Settings().model_dump(mode="json")

    assert {**listed, "routes": every_default["routes"]} == every_default
    assert Settings(**listed) == Settings()
    (route,) = everything["routes"]
    assert {*route, "min_instances"} == Route.model_fields.keys()
    assert Route(**route).hours is not None


def test_a_peer_that_is_not_there_or_can_not_be_asked_is_named() -> None:
    route = {"name": "r", "application": "a"}
    with pytest.raises(ValueError, match="names a peer 'vna', and peers has none of this name"):
        Settings(routes=[{**route, "destinations": ["vna"]}])
    with pytest.raises(ValueError, match="wants priors from 'vna', which is of kind folder"):
        Settings(
            peers={"vna": {"kind": "folder", "path": "x"}}, routes=[{**route, "priors": {"source": "vna"}}]
        )


def test_yaml_is_read_as_people_mean_it(file: Path) -> None:
    file.write_text(
        "routes:\n"
        "  - name: r\n"
        "    application: a\n"
        "    when: {BurnedInAnnotation: NO, StationName: 007, StudyDate: 2026-01-31, SliceThickness: 1.50,\n"
        "           contrast: true}\n"
        "    hours: {start: 20:00, end: 06:00}\n"
    )
    (route,) = Settings.load(file).routes
    assert route.when == {
        "BurnedInAnnotation": "NO",
        "StationName": "007",
        "StudyDate": "2026-01-31",
        "SliceThickness": 1.5,
        "contrast": True,
    }
    assert route.hours is not None
    assert (route.hours.start, route.hours.end) == (time(20), time(6))


def test_a_key_under_an_alias_is_found_where_it_is_written(file: Path) -> None:
    file.write_text("peers:\n  one: &it {kind: folder, path: /x, pth: /y}\n  two: *it\n")
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(file)
    assert [line.split(": ")[0].rpartition("yaml")[2] for line in str(refused.value).splitlines()] == [
        ":2:37"
    ] * 2


def test_the_settings_know_their_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(file).file == file
    assert Settings.load(file).model_copy(update={"data_dir": tmp_path}).file == file
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert Settings.load().file is None


def test_results_are_written_so_that_the_archive_and_every_destination_can_take_them() -> None:
    def peer(**profile: Any) -> dict[str, Any]:
        return {"kind": "folder", "path": "there", **profile}

    settings = Settings(
        results={"profile": {"like": "modern", "largest_instance_mb": 100}},
        peers={
            "same": peer(),
            "new": peer(profile="modern"),
            "old": peer(profile="any"),
            "small": peer(profile={"like": "modern", "transfer_syntaxes": [], "largest_instance_mb": 20}),
            "ris": {"kind": "webhook", "url": "http://ris", "secret": "s"},
        },
    )

    def written(*destinations: str) -> tuple[Any, ...]:
        profile = settings.result_form(destinations).profile
        return profile.segmentation, profile.transfer_syntaxes, profile.largest_instance_mb

    assert written() == written("same", "new", "ris", "gone") == ("LABELMAP", ("RLELossless",), 100)
    assert written("new", "old") == ("BINARY", (), 100)
    assert written("small", "new") == ("LABELMAP", (), 20)


def test_the_viewer_that_make_fetched_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(gateway={"ohif": "mine"}).gateway.viewer == Path("mine")
    if (ROOT / ".cache" / "ohif" / "dist").is_dir():
        assert Settings().gateway.viewer == ROOT / ".cache" / "ohif" / "dist"


def test_a_profile_that_a_peer_can_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="there is none called 'latest'"):
        Settings(peers={"vna": {"kind": "folder", "path": "there", "profile": "latest"}})


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("named", "given"):
        (tmp_path / f"{name}.yaml").write_text(f"data_dir: {name}\n")
    monkeypatch.setenv("ISOCENTER_CONFIG", str(tmp_path / "named.yaml"))
    assert Settings.load().data_dir == Path("named")
    assert Settings.load(tmp_path / "given.yaml").data_dir == Path("given")
