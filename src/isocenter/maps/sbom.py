"""What a package is made of, in CycloneDX 1.6 (ECMA-424): Python distributions, the base's packages, models.

The same package has the same document: no clock and no chance is in it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from isocenter.maps.base import DebianPackage
from isocenter.maps.distributions import Distribution
from isocenter.maps.models import PackagedModel

__all__ = ["SBOM_PATH", "sbom_of"]

SBOM_PATH = "/opt/holoscan/docs/sbom.cdx.json"
_NAMESPACE = uuid.UUID("6b1f0c5e-3f0e-5a52-9c0e-6d0d9a3a7c11")  # of these documents


def sbom_of(
    name: str,
    version: str,
    *,
    base: tuple[str, str],
    distributions: Sequence[Distribution],
    packages: Sequence[DebianPackage],
    models: Sequence[PackagedModel],
    release: dict[str, str],
) -> bytes:
    """The document. base: name and digest. release: /etc/os-release of the base, {} where that is not known."""
    components = [
        *_system(base, release),
        *(_python(each) for each in distributions),
        *(
            _debian(each, release)
            for each in sorted(packages, key=lambda each: (each.name, each.architecture))
        ),
        *(_model(each) for each in models),
    ]
    root = {"type": "container", "bom-ref": f"package:{name}", "name": name, "version": version}
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "isocenter map build"}]},
            "component": root,
        },
        "components": components,
        "dependencies": [
            {"ref": root["bom-ref"], "dependsOn": [each["bom-ref"] for each in components]},
        ],
    }
    text = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, text)}"
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _system(base: tuple[str, str], release: dict[str, str]) -> Iterable[dict[str, Any]]:
    name, digest = base
    yield {
        "type": "operating-system",
        "bom-ref": "base",
        "name": release.get("ID", name),
        "version": release.get("VERSION_ID", ""),
        "description": release.get("PRETTY_NAME", ""),
        "properties": [_property("base", name), _property("base-digest", digest)],
    }


def _python(each: Distribution) -> dict[str, Any]:
    purl = f"pkg:pypi/{quote(each.name)}@{quote(each.version)}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": each.name,
        "version": each.version,
        "purl": purl,
        "properties": [_property("sha256-of-files", each.sha256)],
    }
    if each.licence:
        component["licenses"] = [_licence(each.licence)]
    return component


def _licence(said: str) -> dict[str, Any]:
    try:
        return {"expression": canonicalize_license_expression(said)}
    except InvalidLicenseExpression:
        return {"license": {"name": said}}


def _debian(each: DebianPackage, release: dict[str, str]) -> dict[str, Any]:
    distribution = release.get("ID", "debian")
    purl = (
        f"pkg:deb/{distribution}/{quote(each.name)}@{quote(each.version, safe='')}?arch={each.architecture}"
    )
    if "VERSION_ID" in release:
        purl += f"&distro={distribution}-{release['VERSION_ID']}"
    return {"type": "library", "bom-ref": purl, "name": each.name, "version": each.version, "purl": purl}


def _model(each: PackagedModel) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{each.name}",
        "name": each.name,
        "version": each.version,
        "properties": [_property("weights-sha256", each.sha256)],
        "components": [
            {
                "type": "file",
                "bom-ref": f"model:{each.name}/{path}",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for path, digest in each.file_digests().items()
        ],
    }


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"isocenter:{name}", "value": value}
