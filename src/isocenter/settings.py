"""`isocenter.yaml` and its overrides: every setting of the service, read in this one place.

A key in the file, `orthanc: {http_port: 8042}`, is overridden by `ISOCENTER_ORTHANC__HTTP_PORT`, or by what
stands in the file that `ISOCENTER_ORTHANC__HTTP_PORT_FILE` names (`isocenter.secret_files`). An unknown key is an error
that names it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from isocenter.peer import TLS, Peer, Profile, refuse_half_a_login, refuse_no_port
from isocenter.route import Route
from isocenter.secret_files import with_empty, with_files
from isocenter.setting_names import missing_secrets, refuse_lookalikes, sentence
from isocenter.yaml_places import YAMLDocument, read_yaml
from isocenter_operators.dicomweb.credentials import Credentials
from isocenter_operators.errors import ConfigurationError

if TYPE_CHECKING:
    from isocenter_operators.form import ResultForm
    from isocenter_operators.inference.endpoint import Endpoint

__all__ = [
    "GatewaySettings",
    "LimitSettings",
    "OrthancSettings",
    "ResultSettings",
    "RoutingSettings",
    "Settings",
    "TritonSettings",
    "WorkerSettings",
]

_LOOPBACK = "127.0.0.1"


_SOURCE_TREE = Path(__file__).resolve().parents[2]


def _here_or_source(name: str) -> Path:
    """A folder of the project: where we stand, or else in the source tree that this module belongs to."""
    return Path(name) if Path(name).exists() or not (_SOURCE_TREE / name).exists() else _SOURCE_TREE / name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GatewaySettings(_Section):
    """The one door: OHIF, the DICOMweb proxy, the REST API."""

    host: str = _LOOPBACK
    port: int = 8080
    # The names that requests may ask for; (): on loopback those of loopback, elsewhere any.
    names: tuple[str, ...] = ()
    ohif: Path | None = None  # the viewer's built files; None: the copy that `make` fetched

    @property
    def viewer(self) -> Path:
        """The folder of the viewer's built files, which may not be there."""
        return self.ohif or _here_or_source(".cache/ohif/dist")

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class OrthancSettings(_Section):
    """The archive. With `url` it is one that is already there; without, an embedded one is started."""

    url: str | None = None
    # Whom we believe over https, and who we are; None: the authorities that everybody believes.
    tls: TLS | None = None
    host: str = _LOOPBACK
    http_port: int = 8042
    dicom_port: int = 4242
    aet: str = "ISOCENTER"
    # The embedded one's, with its plugins beside it (../share/orthanc/plugins); None: the one in PATH.
    program: Path | None = None
    username: str | None = None
    password: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://here")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("should be like http://pacs:8042")
        if "@" in parts.netloc:
            # The address stands in messages and logs.
            raise ValueError("must not hold a password: set orthanc.username and orthanc.password")
        refuse_no_port(parts)
        return url

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        refuse_half_a_login(self.username, self.password)
        return self

    @model_validator(mode="after")
    def _tls_is_https(self) -> Self:
        if self.tls is not None and urlsplit(self.url or "").scheme != "https":
            raise ValueError("tls: is for an archive elsewhere, whose url begins with https://")
        return self

    def context(self) -> ssl.SSLContext | None:
        """For the clients of the archive; None: what they do of themselves. Raises ConfigurationError."""
        if self.tls is None:
            return None
        try:
            return self.tls.context()
        except ConfigurationError as error:
            raise ConfigurationError(f"orthanc.{error}") from error

    @property
    def embedded(self) -> bool:
        return self.url is None

    @property
    def rest_url(self) -> str:
        """Orthanc's own REST API, without a slash at the end."""
        return (self.url or f"http://{self.host}:{self.http_port}").rstrip("/")

    @property
    def credentials(self) -> Credentials | None:
        """The name and the password to use, where both are set."""
        if self.username is None or self.password is None:
            return None
        return Credentials(self.username, self.password.get_secret_value())

    @property
    def dicomweb_url(self) -> str:
        return f"{self.rest_url}/dicom-web"


class TritonSettings(_Section):
    """The inference server. With `url` (host:port of its gRPC endpoint) it is one that is already there."""

    url: str | None = None
    tls: TLS | None = None  # {} encrypts, and believes the authorities that everybody believes
    token: str | None = Field(default=None, repr=False)
    host: str = _LOOPBACK
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    model_repository: Path = Field(default_factory=lambda: _here_or_source("triton_models"))
    device: Literal["auto", "cpu", "cuda"] = "auto"
    transport: Literal["auto", "cuda", "grpc"] = (
        "auto"  # auto: the system's shared memory where it can be had
    )

    @property
    def embedded(self) -> bool:
        return self.url is None

    @property
    def grpc_url(self) -> str:
        return self.url or f"{self.host}:{self.grpc_port}"

    @property
    def endpoint(self) -> Endpoint:
        from isocenter_operators.inference.endpoint import Endpoint  # gRPC takes its time

        tls = self.tls or TLS()
        return Endpoint(
            self.grpc_url,
            encrypted=self.tls is not None,
            ca=tls.ca,
            certificate=tls.certificate,
            key=tls.key,
            token=self.token,
        )

    @model_validator(mode="after")
    def _only_elsewhere(self) -> Self:
        if self.url is None and (self.tls is not None or self.token is not None):
            raise ValueError("tls and token are for a server elsewhere: give its url")
        # On this machine it may be for what passes calls on, encrypted.
        here = (self.url or "").rpartition(":")[0] in (_LOOPBACK, "localhost", "[::1]")
        if self.token is not None and self.tls is None and not here:
            raise ValueError("the token would travel unencrypted: give tls too, {} for the usual authorities")
        return self


class WorkerSettings(_Section):
    """The warm processes that run the graphs, and how often they try again when something they need is away."""

    name: str = "worker"  # one per machine: after a crash, a worker of the same name takes its work up again
    processes: int = Field(
        default=1, ge=1, le=64
    )  # that `isocenter up` starts; more than one needs PostgreSQL
    concurrency: int = Field(default=1, ge=1)  # jobs at once in each
    stat_slots: int = Field(default=1, ge=0)  # and this many more that only STAT jobs may take
    # Of a job whose archive or inference server is away: about eight hours of a PACS that is being upgraded.
    attempts: int = Field(default=500, ge=1)
    retry_after_s: float = Field(default=1.0, gt=0)  # doubled after each attempt, up to a minute
    longest_attempt_s: float = Field(default=1800.0, gt=0)  # then it hangs, and the worker is started again
    lost_after_s: float = Field(default=30.0, gt=0)  # a worker that was silent for this long has died
    memory_limit_mb: int | None = Field(default=None, ge=256)  # of each process; None: the machine's


class RoutingSettings(_Section):
    """When a series or a study counts as complete, and how often the archive is asked without being told."""

    settle_s: float = Field(default=5.0, ge=0)
    stat_settle_s: float = Field(default=0.5, ge=0)
    longest_wait_s: float = Field(default=600.0, gt=0)  # what arrives without a pause is begun after this
    reconcile_every_s: float = Field(default=30.0, gt=0)  # the archive's change log
    compare_every_s: float = Field(default=300.0, gt=0)  # all that the archive holds with what was routed


class MapSettings(_Section):
    """MONAI Application Packages that routes name (`map://`)."""

    # Public keys in PEM; where there are any, every package has to be signed with one of them.
    trusted_keys: tuple[Path, ...] = ()
    engine: Literal["docker", "podman", "bubblewrap", "namespaces"] | None = (
        None  # None: the first that works
    )
    gpus: bool = False  # they are given the GPUs of the worker's machine
    output_mb: int = Field(default=4096, ge=1)  # that one may write for a job
    # For so long the next container of the last package is kept ready by each worker; 0: none is.
    warm_s: float = Field(default=600.0, ge=0)


class LimitSettings(_Section):
    """What the disk must keep free, and what is kept of jobs that have ended."""

    free_disk_mb: int = Field(default=1024, ge=0)  # below this no work is taken
    jobs_kept_days: float = Field(default=30.0, gt=0)
    # What is known of a study from when it was found not to be in the archive any more.
    gone_studies_kept_days: float = Field(default=365.0, gt=0)
    jobs_kept_mb: int = Field(default=5120, ge=0)  # of the jobs' folders, the oldest go first
    shadows_kept_mb: int = Field(default=5120, ge=0)  # of what shadow versions have found, likewise


class ResultSettings(_Section):
    """How results are written."""

    profile: Profile = "any"  # what the archive takes
    character_set: Literal["source", "UTF-8"] = "source"
    # Stands in every result; None: "Research use only, not for clinical diagnosis".
    disclaimer: str | None = Field(default=None, min_length=1, max_length=1024)


def _default_routes() -> tuple[Route, ...]:
    return (
        Route(
            name="chest CT to lung density",
            applications=("ct_lung_density",),
            when={"Modality": "^CT$"},
            min_instances=20,
        ),
        # The demonstration takes nothing but the phantom: of patients' images not even a job is made for it.
        Route(
            name="chest CT to thorax organs",
            applications=("thorax_organs",),
            when={"Modality": "^CT$", "QualityControlSubject": "^YES$"},
            min_instances=20,
            priority="batch",
            outcome="never",
        ),
    )


class Settings(BaseSettings):
    """All settings. `Settings.load(path)` is the way to get one; tests pass keyword arguments."""

    model_config = SettingsConfigDict(
        env_prefix="ISOCENTER_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Path("isocenter-data")  # database, Orthanc's storage, logs, jobs' working folders
    apps_dir: Path = Field(default_factory=lambda: _here_or_source("apps"))
    database_url: str | None = None  # None: SQLite in data_dir
    # The index of the bundles that can be imported by name, or of a copy of it; None: nothing is fetched.
    model_zoo: str | None = (
        "https://raw.githubusercontent.com/Project-MONAI/model-zoo/dev/models/model_info.json"
    )
    gateway: GatewaySettings = GatewaySettings()
    orthanc: OrthancSettings = OrthancSettings()
    triton: TritonSettings = TritonSettings()
    worker: WorkerSettings = WorkerSettings()
    routing: RoutingSettings = RoutingSettings()
    limits: LimitSettings = LimitSettings()
    results: ResultSettings = ResultSettings()
    maps: MapSettings = MapSettings()
    peers: dict[str, Peer] = Field(default_factory=dict)
    routes: tuple[Route, ...] = Field(default_factory=_default_routes)
    _file: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _known_peers(self) -> Self:
        for index, route in enumerate(self.routes):
            places = {f"destinations.{at}": name for at, name in enumerate(route.destinations)}
            if route.priors and route.priors.source:
                places["priors.source"] = route.priors.source
            for place, name in places.items():
                if name not in self.peers:
                    near = get_close_matches(name, self.peers, 1)
                    meant = f"; did you mean {near[0]}?" if near else ""
                    raise ValueError(
                        f"routes.{index}.{place}: route {route.name!r} names a peer {name!r}, and peers has none of "
                        f"this name{meant}"
                    )
        return self

    @model_validator(mode="after")
    def _priors_can_be_asked_for(self) -> Self:
        for index, route in enumerate(self.routes):
            source = route.priors.source if route.priors else None
            if source is not None and self.peers[source].kind not in ("dicom", "dicomweb"):
                raise ValueError(
                    f"routes.{index}.priors.source: route {route.name!r} wants priors from {source!r}, which is of "
                    f"kind {self.peers[source].kind}: only dicom and dicomweb can be asked"
                )
        return self

    @model_validator(mode="after")
    def _several_workers_share_a_server(self) -> Self:
        if self.worker.processes > 1 and self.database.startswith("sqlite"):
            raise ValueError("worker.processes: more than one needs PostgreSQL, see database_url")
        return self

    @property
    def database(self) -> str:
        """The database's URL, for SQLAlchemy and DBOS."""
        if self.database_url is None:
            return f"sqlite:///{(self.data_dir / 'isocenter.sqlite').resolve()}"
        # Not above: SQLAlchemy is the service's, and a package with a Triton of its own reads settings without it.
        from isocenter.database_url import bounded

        return bounded(self.database_url)

    @property
    def imported_apps_dir(self) -> Path:
        """Where `models import` puts applications: beside the data, which an upgrade leaves alone."""
        return self.data_dir / "apps"

    @property
    def maps_dir(self) -> Path:
        """Where `map add` puts packages."""
        return self.data_dir / "maps"

    @property
    def model_repositories(self) -> tuple[Path, ...]:
        """The embedded inference server's: what is installed, and what was imported."""
        return (self.triton.model_repository, *self.imported_models)

    @property
    def imported_models(self) -> tuple[Path, ...]:
        """The repository that imports go to, where there is one."""
        imported = self.data_dir / "models"
        return (imported,) if imported.is_dir() else ()

    def result_form(self, destinations: Iterable[str] = ()) -> ResultForm:
        """In which form results are written that go into the archive, and on to these peers."""
        from isocenter_operators.dicom.header import DISCLAIMER
        from isocenter_operators.dicom.results.profile import profile_of
        from isocenter_operators.form import ResultForm

        taken = [profile_of(profile) for name in destinations if (profile := self.profile_of_peer(name))]
        return ResultForm(
            profile_of(self.results.profile).shared_with(taken),
            self.results.character_set,
            self.results.disclaimer or DISCLAIMER,
        )

    def profile_of_peer(self, name: str) -> str | dict[str, Any] | None:
        """What this peer takes; None where it takes what the archive does, keeps no objects, or is no peer any more."""
        profile: str | dict[str, Any] | None = getattr(self.peers.get(name), "profile", None)
        return profile

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which arrives as init arguments: the first source counts."""
        if isinstance(env_settings, EnvSettingsSource):
            read = with_files(os.environ, settings_cls.model_fields)
            env_settings.env_vars = {name.lower(): value for name, value in read.items()}
        return (env_settings, init_settings)

    @classmethod
    def load(cls, path: Path | None = None, secrets: Collection[str] | None = None) -> Settings:
        """Read `path`, or what ISOCENTER_CONFIG names, or `./isocenter.yaml` where there is one; then the environment.

        secrets: the sections whose secrets will be used, all where None; those of others may be missing, and are
        empty then: who only lists jobs need not have the passwords of every peer.

        Raises ConfigurationError, naming the file with line and column, or the variable, and the key.
        """
        named = path or os.environ.get("ISOCENTER_CONFIG")
        file = Path(named or "isocenter.yaml")
        if not named and not file.exists():
            return cls._build({}, None, None, secrets)
        document = read_yaml(file)
        content = document.content
        if not isinstance(content, dict | None):
            raise ConfigurationError(
                f"{file}: expected keys and values at the top, found {type(content).__name__}"
            )
        for key in content or {}:
            if not isinstance(key, str):
                raise ConfigurationError(f"{file}: {key!r} is no key; write it in quotes")
        return cls._build(content or {}, file, document, secrets)

    @property
    def file(self) -> Path | None:
        """The file that `load` read, None where there was none."""
        return self._file

    @classmethod
    def resolved(cls, path: Path) -> Settings:
        """Settings as a running stack wrote them, whatever the environment says."""
        return _Resolved(**yaml.safe_load(path.read_text()))

    @classmethod
    def _build(
        cls,
        content: dict[str, Any],
        file: Path | None,
        document: YAMLDocument | None,
        secrets: Collection[str] | None,
    ) -> Settings:
        refuse_lookalikes(cls, os.environ)
        if file is not None and "routes" in content:
            content = {**content, "routes": _beside(content["routes"], file)}
        try:
            try:
                settings = cls(**content)
            except ValidationError as error:
                unused = [
                    each for each in missing_secrets(error) if secrets is not None and each[0] not in secrets
                ]
                if not unused:
                    raise
                settings = cls(**with_empty(content, unused))
        except ValidationError as error:
            raise ConfigurationError(sentence(error, cls, os.environ, file, document)) from error
        settings._file = file
        return settings


def _beside(content: Any, file: Path) -> Any:
    """The paths of `selection` as seen from the file they stand in: the workers may stand in another folder."""
    if isinstance(content, list):
        return [_beside(each, file) for each in content]
    if not isinstance(content, dict):
        return content
    return {
        key: str((file.parent / value).resolve())
        if key == "selection" and isinstance(value, str)
        else _beside(value, file)
        for key, value in content.items()
    }


class _Resolved(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)
