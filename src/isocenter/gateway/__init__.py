"""The gateway: one origin for OHIF, the DICOMweb proxy and the REST API."""

from __future__ import annotations

from isocenter.gateway.app import create_app

__all__ = ["create_app"]
