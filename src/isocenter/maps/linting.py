"""All that is wrong with a package, before a hospital finds it out: by the specification, and by experience.

docs/maps.md lists the findings by their names.
"""

from __future__ import annotations

from isocenter.maps.content_findings import content_findings
from isocenter.maps.finding import Finding
from isocenter.maps.image_findings import image_findings
from isocenter.maps.manifest_findings import manifest_findings
from isocenter.maps.package import Package
from isocenter.maps.path_findings import path_findings

__all__ = ["lint_package"]

_RULES = (manifest_findings, path_findings, image_findings, content_findings)


def lint_package(package: Package) -> list[Finding]:
    """Errors first, each kind in the order of the rules. Raises InputError for an image whose files can not be read."""
    found = [finding for rule in _RULES for finding in rule(package)]
    return sorted(found, key=lambda finding: finding.severity != "error")
