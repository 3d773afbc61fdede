"""OHIF's built files, and the configuration that this origin gives it."""

from __future__ import annotations

import mimetypes
import re
from importlib import resources
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from isocenter.gateway.page import missing_viewer_page

__all__ = ["Viewer"]

# "app.bundle.0f6159c501addfe9.js", "34b1e6b1deb5828e.wasm": the name changes with the content.
_HASHED = re.compile(r"(^|\.)[0-9a-f]{16,}\.[a-z0-9]+$")
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".jsonc": "application/json",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
# OHIF has a service worker that would fetch code from the network. Nothing here does.
_WITHHELD = frozenset({"sw.js", "init-service-worker.js"})
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; "
    # A PDF is shown by the browser, from what the viewer fetched.
    "object-src 'self' blob:; frame-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)


class Viewer:
    """Serves OHIF from `folder`, the `dist` of the npm package @ohif/app. Without it, says how to get it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._configuration = resources.files("isocenter.gateway").joinpath("app-config.js").read_text()

    @property
    def installed(self) -> bool:
        return (self.folder / "index.html").is_file()

    async def configuration(self, request: Request) -> Response:
        """`/app-config.js`, which OHIF's page loads first."""
        return Response(
            self._configuration, media_type="text/javascript", headers={"Cache-Control": "no-cache"}
        )

    async def respond(self, request: Request) -> Response:
        if not self.installed:
            return missing_viewer_page(self.folder, 200 if request.url.path == "/" else 503)
        path: str = request.path_params["path"]
        if path in _WITHHELD:
            return Response("", media_type="text/javascript", headers={"Cache-Control": "no-cache"})
        file = self._file(path)
        if file is not None:
            return _response(file, request.headers)
        if Path(path).suffix in _TYPES or path.startswith("assets/"):
            return Response(f"OHIF has no file {path}", 404, media_type="text/plain")
        # A place inside the viewer, such as /viewer.
        return _response(self.folder / "index.html", request.headers)

    def _file(self, path: str) -> Path | None:
        try:
            file = (self.folder / path).resolve()
            return file if file.is_relative_to(self.folder) and file.is_file() else None
        except (OSError, ValueError):  # longer than a file's name can be, or with a zero byte in it
            return None


def _response(file: Path, request_headers: Headers) -> Response:
    hashed = _HASHED.search(file.name) is not None
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if hashed else "no-cache",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if file.suffix == ".html":
        headers["Content-Security-Policy"] = _POLICY
    media_type = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    compressed = file.with_name(file.name + ".gz")
    if "gzip" in request_headers.get("Accept-Encoding", "") and compressed.is_file():
        headers["Content-Encoding"] = "gzip"
        file = compressed
    return FileResponse(file, media_type=media_type, headers=headers)
