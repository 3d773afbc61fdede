"""`isocenter models import NAME`: what is fetched, from where, and what is said where it can not be."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from isocenter.bundles.model_zoo import fetched
from isocenter.cli import main
from isocenter_operators.errors import ConfigurationError, Unavailable

NAME = "spleen_ct_segmentation"
GIT_OF_BRACES = "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # what `git hash-object` says of "{}"


@pytest.fixture
def zoo() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """A server on loopback that has these files; the address of it."""
    servers = []

    def serving(files: dict[str, bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = files.get(self.path)
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield serving
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def index(entries: dict[str, tuple[str, str]]) -> bytes:
    return json.dumps({key: {"source": url, "checksum": sha} for key, (url, sha) in entries.items()}).encode()


def zipped(folder: Path, text: str) -> bytes:
    file = folder / "made.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{NAME}/configs/metadata.json", text)
    return file.read_bytes()


def test_the_newest_version_is_fetched_and_its_checksum_looked_at(
    zoo: Callable[[dict[str, bytes]], str], tmp_path: Path
) -> None:
    content = zipped(tmp_path, '{"version": "0.10.0"}')
    files = {"/new.zip": content}
    site = zoo(files)
    sha = hashlib.sha1(content).hexdigest()
    old = (f"{site}/old.zip", "0" * 40)
    versions = {f"{NAME}_v0.9.1": old, f"{NAME}_v0.10.0": (f"{site}/new.zip", sha), f"{NAME}x_v9.0.0": old}
    files["/index"] = index(versions)
    with fetched(NAME, f"{site}/index") as there:
        assert there.read_bytes() == content
        assert there.stem == NAME
    assert not there.exists()
    files["/index"] = index({f"{NAME}_v0.10.0": (f"{site}/new.zip", "0" * 40)})
    with (
        pytest.raises(ConfigurationError, match="another checksum than the index says"),
        fetched(NAME, f"{site}/index"),
    ):
        pass


def test_a_repository_is_fetched_file_by_file(zoo: Callable[[dict[str, bytes]], str]) -> None:
    weights = b"weights"
    listed: list[dict[str, Any]] = [
        {"type": "directory", "path": "models"},
        {"type": "file", "path": "configs/metadata.json", "size": 2, "oid": GIT_OF_BRACES},
        {"type": "file", "path": "models/model.pt", "lfs": {"oid": hashlib.sha256(weights).hexdigest()}},
    ]
    files = {
        f"/api/models/MONAI/{NAME}/tree/0.5.9?recursive=true": json.dumps(listed).encode(),
        f"/MONAI/{NAME}/resolve/0.5.9/configs/metadata.json": b"{}",
        f"/MONAI/{NAME}/resolve/0.5.9/models/model.pt": weights,
    }
    site = zoo(files)
    files["/index"] = index({f"{NAME}_v0.5.9": (f"{site}/MONAI/{NAME}/tree/0.5.9", "")})
    with fetched(NAME, f"{site}/index") as there:
        assert {file.relative_to(there).as_posix(): file.read_bytes() for file in there.rglob("*.*")} == {
            "configs/metadata.json": b"{}",
            "models/model.pt": weights,
        }
    for path, content in (("models/model.pt", weights), ("configs/metadata.json", b"{}")):
        files[f"/MONAI/{NAME}/resolve/0.5.9/{path}"] = b"others"
        with pytest.raises(ConfigurationError, match="another checksum"), fetched(NAME, f"{site}/index"):
            pass
        files[f"/MONAI/{NAME}/resolve/0.5.9/{path}"] = content
    del listed[1]["oid"]
    files[f"/api/models/MONAI/{NAME}/tree/0.5.9?recursive=true"] = json.dumps(listed).encode()
    with (
        pytest.raises(ConfigurationError, match="no checksum of it is known"),
        fetched(NAME, f"{site}/index"),
    ):
        pass
    for odd in ("text", {"type": "file", "path": "a", "size": "x", "lfs": "y"}):
        files[f"/api/models/MONAI/{NAME}/tree/0.5.9?recursive=true"] = json.dumps([odd]).encode()
        with (
            pytest.raises(ConfigurationError, match=r"lists no files|no checksum of it is known"),
            fetched(NAME, f"{site}/index"),
        ):
            pass
    listed[1]["path"] = "../outside"
    files[f"/api/models/MONAI/{NAME}/tree/0.5.9?recursive=true"] = json.dumps(listed).encode()
    with pytest.raises(ConfigurationError, match="outside of the bundle"), fetched(NAME, f"{site}/index"):
        pass


def test_a_name_that_the_zoo_does_not_have(zoo: Callable[[dict[str, bytes]], str]) -> None:
    site = zoo({"/index": index({"other_v1.0.0": ("http://127.0.0.1/other.zip", "")})})
    with (
        pytest.raises(ConfigurationError, match="has no bundle of this name"),
        fetched(NAME, f"{site}/index"),
    ):
        pass
    with pytest.raises(Unavailable, match="answered 404"), fetched(NAME, f"{site}/elsewhere"):
        pass
    odd = zoo({"/index": index({f"{NAME}_v1.0.0": ("http://[::1.zip", "0" * 40)})})
    with pytest.raises(Unavailable, match="could not be reached"), fetched(NAME, f"{odd}/index"):
        pass


def test_without_a_network_it_is_said_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.chdir(tmp_path)

    def imported(what: str, index: str | None) -> tuple[int, str]:
        Path("isocenter.yaml").write_text(json.dumps({"model_zoo": index}))
        code = main(["models", "import", what])
        return code, " ".join(capsys.readouterr().err.split())

    code, said = imported(NAME, f"http://127.0.0.1:{port}/model_info.json")
    assert code == 1
    assert f"http://127.0.0.1:{port}/model_info.json did not answer: [Errno 111] Connection refused" in said
    assert f"monai.bundle download --name {NAME}" in said
    code, said = imported(NAME, None)
    assert code == 2
    assert "model_zoo is null: nothing is fetched here" in said
    code, said = imported(f"./{NAME}.zip", None)
    assert code == 2
    assert said.endswith("there is no such folder or zip")
