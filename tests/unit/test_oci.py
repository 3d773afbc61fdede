"""Images as files: what is read back is what was written, layers merge as the specification says, nothing escapes."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from isocenter.maps.blobs import digest_of
from isocenter.maps.filesystem import FileSystem
from isocenter.maps.image_config import ContainerConfig, ImageConfig
from isocenter.maps.image_writer import Draft, taken_layer, write_image
from isocenter.maps.layer import LayerContent, epoch_of, files_below, write_layer
from isocenter.maps.oci import Image, open_image
from isocenter_operators.errors import InputError


class _Tar:
    """A layer in memory: (name, content or link) in this order; a name that ends in a slash is a folder."""

    def __init__(self, *members: tuple[str, object]) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, content in members:
                header = tarfile.TarInfo(name.rstrip("/") if name != "/" else name)
                header.mode = 0o755 if name.endswith("/") else 0o640
                if name.endswith("/"):
                    header.type = tarfile.DIRTYPE
                elif isinstance(content, tuple):
                    header.type = tarfile.SYMTYPE if content[0] == "symlink" else tarfile.LNKTYPE
                    header.linkname = content[1]
                elif isinstance(content, bytes):
                    header.size = len(content)
                archive.addfile(header, io.BytesIO(content) if isinstance(content, bytes) else None)
        self.content = out.getvalue()

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.content)


def _paths(*layers: _Tar) -> list[str]:
    return [entry.path for entry in FileSystem(layers).entries()]


def test_an_upper_layer_replaces_adds_and_deletes() -> None:
    lower = _Tar(
        ("etc/", None), ("etc/a", b"1"), ("etc/b", b"2"), ("opt/", None), ("opt/x/", None), ("opt/x/y", b"3")
    )
    upper = _Tar(("etc/.wh.a", b""), ("etc/b", b"new"), ("opt/.wh.x", b""), ("var/lib/z", b"4"))
    merged = FileSystem([lower, upper])
    assert [entry.path for entry in merged.entries()] == ["etc", "etc/b", "opt", "var/lib/z"]
    assert merged.read("/etc/b") == b"new"
    assert merged.find("/etc/a") is None


def test_an_opaque_folder_hides_what_lies_below_and_not_what_comes_with_it() -> None:
    lower = _Tar(("d/", None), ("d/old", b"1"))
    assert _paths(lower, _Tar(("d/", None), ("d/new", b"2"), ("d/.wh..wh..opq", b""))) == ["d", "d/new"]


def test_what_goes_through_a_link_of_a_lower_layer_lands_behind_it() -> None:
    """As Debian's /lib and /bin are."""
    lower = _Tar(("usr/", None), ("usr/lib/", None), ("lib", ("symlink", "usr/lib")))
    merged = FileSystem([lower, _Tar(("lib/libz.so.1", b"z"))])
    assert [entry.path for entry in merged.entries()] == ["lib", "usr", "usr/lib", "usr/lib/libz.so.1"]
    assert merged.read("lib/libz.so.1") == b"z"


def test_a_hard_link_keeps_its_content_when_its_other_name_is_replaced(tmp_path: Path) -> None:
    lower = _Tar(("a", b"first"), ("b", ("link", "a")), ("c", ("link", "a")))
    merged = FileSystem([lower, _Tar(("a", b"second"))])
    assert (merged.read("a"), merged.read("b")) == (b"second", b"first")
    merged.extract(tmp_path / "root")
    assert (tmp_path / "root/b").read_bytes() == b"first"
    assert (tmp_path / "root/b").samefile(tmp_path / "root/c")
    assert not (tmp_path / "root/b").samefile(tmp_path / "root/a")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil"])
def test_a_path_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="leads out"):
        FileSystem([_Tar((name, b"x"))])


def test_links_that_lead_out_are_followed_inside_only(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layers = [
        _Tar(("up", ("symlink", "../../../..")), ("out", ("symlink", str(outside)))),
        _Tar(("out/evil", b"x"), ("up/evil", b"y")),
    ]
    FileSystem(layers).extract(tmp_path / "root")
    assert not any(outside.iterdir())
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "root/evil").read_bytes() == b"y"
    assert (tmp_path / f"root{outside}/evil").read_bytes() == b"x"


def test_what_lay_in_a_folder_is_not_written_through_the_link_that_replaces_it(tmp_path: Path) -> None:
    """No layer needs to have an entry for a folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = _Tar(("a/b", ("symlink", "/etc/passwd")), ("a/c", b"x"), ("a", ("symlink", str(outside))))
    FileSystem([layer]).extract(tmp_path / "root")
    assert not any(outside.iterdir())
    assert _paths(layer) == ["a"]


def test_nothing_lies_below_a_file() -> None:
    with pytest.raises(InputError, match="lies below /a, which is a file"):
        FileSystem([_Tar(("a", b"1"), ("a/b", b"2"))])


def test_a_sparse_file_is_not_taken_for_what_lies_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 20)
    layer = _Tar()
    layer.content = subprocess.run(
        ["tar", "--create", "--sparse", "--format=gnu", "-C", tmp_path, "hole"],
        capture_output=True,
        check=True,
    ).stdout
    with pytest.raises(InputError, match="hole: a sparse file"):
        FileSystem([layer])


def test_links_in_a_circle_are_told() -> None:
    with pytest.raises(InputError, match="circle"):
        FileSystem([_Tar(("a", ("symlink", "b")), ("b", ("symlink", "a")))]).read("a/x")


def test_extracted_files_have_their_permissions(tmp_path: Path) -> None:
    FileSystem([_Tar(("d/", None), ("d/f", b"1"))]).extract(tmp_path / "root")
    assert stat.S_IMODE((tmp_path / "root/d/f").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o755


def test_nothing_is_unpacked_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="empty"):
        FileSystem([]).extract(tmp_path)


def _draft(tmp_path: Path, source: Path, compression: str = "none", tag: str = "app:1") -> Draft:
    content = LayerContent()
    for path in files_below(source):
        content.files[f"opt/app/{path.relative_to(source).as_posix()}"] = path
    content.files["etc/app.json"] = b"{}"
    content.owned["var/out"] = (1000, 1000)
    content.folders.add("var/out")
    file = tmp_path / f"layer-{compression}"
    layer = write_layer(content, file, epoch=0, compression=compression)  # type: ignore[arg-type]
    config = ImageConfig(config=ContainerConfig(user="1000", env=("A=b=c",), entrypoint=("/bin/x",)))
    return Draft(config, [layer], tag)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.py").write_text("print(1)\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o700)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/a.cpython-311.pyc").write_bytes(os.urandom(8))
    return folder


@pytest.mark.parametrize("name", ["image.oci", "layout"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_is_written_is_read_back(tmp_path: Path, source: Path, name: str, compression: str) -> None:
    digest = write_image(_draft(tmp_path, source, compression), tmp_path / name)
    image = open_image(tmp_path / name)
    image.verify()
    assert image.digest == digest
    assert image.tag == "app:1"
    assert image.config.config.user == "1000"
    assert image.config.config.environment == {"A": "b=c"}
    assert image.config.config.argv == ("/bin/x",)
    assert image.read("/opt/app/sub/a.py") == b"print(1)\n"
    modes = {entry.path: (entry.mode, entry.uid) for entry in image.entries()}
    assert modes["opt/app/run.sh"] == (0o755, 0)
    assert modes["opt/app/sub/a.py"] == (0o644, 0)
    assert modes["var/out"] == (0o755, 1000)
    assert not any("pycache" in path for path in modes)


def test_the_same_files_give_the_same_digest_on_another_day(tmp_path: Path, source: Path) -> None:
    first = write_image(_draft(tmp_path, source), tmp_path / "one.oci")
    there = tmp_path / "elsewhere"
    source.rename(there)
    os.utime(there / "sub/a.py", (time.time() - 1e8,) * 2)
    (there / "sub").chmod(0o700)
    assert write_image(_draft(tmp_path, there), tmp_path / "two.oci") == first
    assert (tmp_path / "one.oci").read_bytes() == (tmp_path / "two.oci").read_bytes()


def test_a_moment_can_be_asked_for() -> None:
    assert epoch_of({}) == 0
    assert epoch_of({"SOURCE_DATE_EPOCH": "1700000000"}) == 1700000000
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        epoch_of({"SOURCE_DATE_EPOCH": "yesterday"})


def test_a_link_out_of_the_folder_is_not_packed(tmp_path: Path, source: Path) -> None:
    (source / "secret").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="secret"):
        _draft(tmp_path, source)


def test_a_changed_layer_is_found(tmp_path: Path, source: Path) -> None:
    write_image(_draft(tmp_path, source), tmp_path / "image.oci")
    content = (tmp_path / "image.oci").read_bytes()
    (tmp_path / "image.oci").write_bytes(content.replace(b"print(1)", b"print(2)"))
    with pytest.raises(InputError, match="not what its digest says"):
        open_image(tmp_path / "image.oci").verify()


def test_a_changed_configuration_is_found_at_once(tmp_path: Path, source: Path) -> None:
    write_image(_draft(tmp_path, source), tmp_path / "image.oci")
    content = (tmp_path / "image.oci").read_bytes()
    (tmp_path / "image.oci").write_bytes(content.replace(b'"User":"1000"', b'"User":"0000"'))
    with pytest.raises(InputError, match="not what its digest says"):
        open_image(tmp_path / "image.oci")


def test_a_layer_of_an_image_goes_into_another_as_it_is(tmp_path: Path, source: Path) -> None:
    write_image(_draft(tmp_path, source, "gzip"), tmp_path / "base.oci")
    base = open_image(tmp_path / "base.oci")
    write_image(Draft(base.config, [taken_layer(each) for each in base.layers]), tmp_path / "next.oci")
    assert [each.digest for each in open_image(tmp_path / "next.oci").layers] == [
        each.digest for each in base.layers
    ]


def _docker_archive(path: Path, image: Image) -> Path:
    """As `docker save` writes it before its version 25: manifest.json alone, layers under names of their own."""
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes) -> None:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))

        names = []
        for number, layer in enumerate(image.layers):
            with layer.open() as stream:
                add(f"{number}/layer.tar", stream.read())
            names.append(f"{number}/layer.tar")
        config = json.dumps(image.config.model_dump(mode="json", exclude_none=True)).encode()
        add("config.json", config)
        add(
            "manifest.json",
            json.dumps([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": names}]).encode(),
        )
    return path


def test_what_docker_saves_is_read(tmp_path: Path, source: Path) -> None:
    write_image(_draft(tmp_path, source), tmp_path / "image.oci")
    image = open_image(_docker_archive(tmp_path / "saved.tar", open_image(tmp_path / "image.oci")))
    image.verify()
    assert image.tag == "a:1"
    assert image.digest == image.config_digest
    assert image.read("etc/app.json") == b"{}"


def test_an_archive_of_ours_is_one_of_docker_too(tmp_path: Path, source: Path) -> None:
    write_image(_draft(tmp_path, source), tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        said = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        names = archive.getnames()
    assert said[0]["RepoTags"] == ["app:1"]
    assert {said[0]["Config"], *said[0]["Layers"]} <= set(names)


def test_what_is_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.oci").write_text("hello")
    (tmp_path / "packed.tar").write_bytes(gzip.compress(b"hello"))
    for name, said in (
        ("none", "no such"),
        ("empty", "no image"),
        ("text.oci", "no tar"),
        ("packed.tar", "gunzip"),
    ):
        with pytest.raises(InputError, match=said):
            open_image(tmp_path / name)


def test_which_of_several_images_has_to_be_said(tmp_path: Path, source: Path) -> None:
    _merge(tmp_path / "all", [_written(tmp_path, source, tag) for tag in ("app:1", "app:2")])
    with pytest.raises(InputError, match="app:1, app:2"):
        open_image(tmp_path / "all")
    assert open_image(tmp_path / "all", "app:2").tag == "app:2"


def _written(tmp_path: Path, source: Path, tag: str) -> Path:
    (source / "tag").write_text(tag)
    path = tmp_path / tag.replace(":", "-")
    write_image(_draft(tmp_path, source, tag=tag), path)
    return path


def _merge(path: Path, layouts: Sequence[Path]) -> None:
    (path / "blobs/sha256").mkdir(parents=True)
    index = json.loads((layouts[0] / "index.json").read_text())
    index["manifests"] = [
        each for layout in layouts for each in json.loads((layout / "index.json").read_text())["manifests"]
    ]
    (path / "index.json").write_text(json.dumps(index))
    for layout in layouts:
        for blob in (layout / "blobs/sha256").iterdir():
            (path / "blobs/sha256" / blob.name).write_bytes(blob.read_bytes())


def test_a_folder_that_is_no_image_is_left_alone(tmp_path: Path, source: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        write_image(_draft(tmp_path, source), source)
    assert (source / "run.sh").exists()


def test_digests_are_named() -> None:
    assert digest_of(io.BytesIO(b"")).startswith("sha256:e3b0c442")
