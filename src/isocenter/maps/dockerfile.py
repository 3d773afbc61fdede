"""A package as a Dockerfile and the folder that it is built from, for whichever engine there is.

The large parts are the same layers that are written without an engine, as tar files that ADD unpacks: so the same
Python packages and models are in the image, whoever builds it; nothing is fetched but the base and system packages.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from isocenter.maps.building import TOOLS, USER, Parts, container_config, models_layer, package_layer
from isocenter.maps.image_config import ContainerConfig
from isocenter.maps.layer import write_layer
from isocenter.maps.python_layer import ENVIRONMENT, environment_layer
from isocenter.maps.sbom import sbom_of

__all__ = ["BASE", "write_context"]

# What is built upon where no base is named: a tag, so give one by its digest for what is to be the same tomorrow. For a
# GPU too: PyTorch brings the CUDA libraries.
BASE = "python:{minor}-slim-bookworm"
_NAMES = ("python.tar", "models.tar", "application.tar")


def write_context(
    parts: Parts,
    base: str,
    origin: tuple[str, str],
    folder: Path,
    *,
    epoch: int,
    system_packages: tuple[str, ...],
) -> Path:
    """Write Dockerfile and layers to the folder, and return the Dockerfile's path.

    base: the name of an image. origin: what the package says of it, its name and its digest or "". What packages the
    base has is not known here, so the bill of materials is without them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sbom = sbom_of(
        parts.app.name,
        parts.app.application.version,
        base=origin,
        distributions=parts.closure.distributions,
        packages=(),
        models=parts.models,
        release={},
    )
    contents = (
        environment_layer(parts.closure.distributions, parts.minor),
        models_layer(parts.models),
        package_layer(parts, sbom, users={}),
    )
    for name, content in zip(_NAMES, contents, strict=True):
        write_layer(content, folder / name, epoch=epoch)
    (folder / ".dockerignore").write_text("*\n" + "".join(f"!{name}\n" for name in _NAMES))
    file = folder / "Dockerfile"
    file.write_text(_dockerfile(parts, base, origin, system_packages))
    return file


def _dockerfile(parts: Parts, base: str, origin: tuple[str, str], system_packages: tuple[str, ...]) -> str:
    config = container_config(parts, ContainerConfig(), origin)
    lines = [
        f"# {parts.app.application.title} {parts.app.application.version}, made by isocenter map build.",
        f"ARG BASE={base}",
        "FROM ${BASE}",
        *([_apt(system_packages)] if system_packages else []),
        "",
        "# Python packages as they were tested, checked against their own lists of hashes.",
        f"ADD {_NAMES[0]} /",
        _environment(parts.minor),
        "",
        f"ADD {_NAMES[1]} /",
        f"ADD {_NAMES[2]} /",
        "",
        _user(),
        "",
        "ENV " + " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in config.environment.items()),
        "LABEL "
        + " \\\n      ".join(f"{name}={_quoted(value)}" for name, value in (config.labels or {}).items()),
        f"WORKDIR {config.working_dir}",
        f"USER {config.user}",
        f"ENTRYPOINT {json.dumps(list(config.entrypoint or ()))}",
        "CMD []",
        "",
    ]
    return "\n".join(lines)


def _apt(packages: tuple[str, ...]) -> str:
    names = " ".join(shlex.quote(each) for each in packages)
    return (
        "RUN apt-get update \\\n"
        f"    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {names} \\\n"
        "    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log"
    )


def _environment(minor: str) -> str:
    """A virtual environment of the base's own Python, which has to be of the version that the packages are for."""
    major, _, lesser = minor.partition(".")
    found = f'"$(readlink -f "$(command -v python{minor} || command -v python3)")"'
    return (
        f"RUN python={found} \\\n"
        f'    && "$python" -c \'import sys; sys.exit(sys.version_info[:2] != ({major}, {lesser}) '
        f'and "the base has to have Python {minor}")\' \\\n'
        f"    && mkdir -p {ENVIRONMENT}/bin \\\n"
        f'    && for name in python python3 python{minor}; do ln -s "$python" {ENVIRONMENT}/bin/$name; done \\\n'
        "    && printf 'home = %s\\ninclude-system-site-packages = false\\nversion = %s\\n' "
        f'"$(dirname "$python")" {minor} > {ENVIRONMENT}/pyvenv.cfg'
    )


def _user() -> str:
    """As a number, so that an orchestrator can see that it is not root; with a name, for programs that ask."""
    return (
        f"RUN cut -d: -f3 /etc/passwd | grep -qx {USER} \\\n"
        f"    || {{ echo 'holoscan:x:{USER}:{USER}:holoscan:/var/holoscan:/usr/sbin/nologin' >> /etc/passwd; \\\n"
        f"         echo 'holoscan:x:{USER}:' >> /etc/group; }} \\\n"
        f"    && test -f {TOOLS}"
    )


def _quoted(value: str) -> str:
    """A value that ENV and LABEL take as it is."""
    return json.dumps(value, ensure_ascii=False).replace("$", "\\$")
