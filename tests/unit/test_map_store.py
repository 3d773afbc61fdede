"""Packages that routes name: taken in by digest, trusted by signature, found again, taken out."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import subprocess
import time
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import cast

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from map_cases import good
from pydantic import ValidationError

from isocenter.catalog import Catalog
from isocenter.cli.main import main
from isocenter.job import JobSpec
from isocenter.maps.package import Package, open_package
from isocenter.maps.root_folder import RootFolder
from isocenter.maps.store import MapStore
from isocenter.maps.unpacked import forget_old, in_use, unpacked
from isocenter.route import Route
from isocenter.settings import MapSettings, Settings
from isocenter_operators.errors import ConfigurationError, InputError, StorageFull


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return good().write_image(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> MapStore:
    return MapStore(tmp_path / "maps")


def _public(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, file: Path) -> Path:
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


def test_a_package_is_taken_in_and_found_by_its_digest(image: Path, store: MapStore) -> None:
    stored = store.add(image)
    assert stored.reference == f"map://good@{stored.digest}"
    assert (stored.version, stored.timeout_s) == ("1.0.0", 600)
    assert store.get(stored.digest) == stored
    assert store.open(stored).digest == stored.digest
    assert store.all() == [stored]
    assert store.add(image, name="other").name == "other"  # once more: the same image
    assert len(store.all()) == 1
    store.remove(store.all()[0])
    assert store.all() == []
    with pytest.raises(ConfigurationError, match="there is no package with the digest"):
        store.get(stored.digest)


def test_where_the_disk_fills_nothing_is_left_of_a_package(
    image: Path, store: MapStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_: Path, target: Path) -> None:
        target.write_bytes(b"the first half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    abandoned = store.folder / f".sha256-{'0' * 64}.part"  # by one that was killed
    abandoned.mkdir(parents=True)
    (abandoned / "image.oci").write_bytes(b"the first half")
    with monkeypatch.context() as full:
        full.setattr("isocenter.maps.store.shutil.copyfile", fill)
        with pytest.raises(StorageFull, match="No space left"):
            store.add(image)
    assert not list(store.folder.glob(".sha256-*"))
    assert store.all() == []
    assert store.open(store.add(image)).digest


def test_a_package_that_can_not_be_taken_out_is_not_said_to_be_gone(
    image: Path, store: MapStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, **_: object) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    stored = store.add(image)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with pytest.raises(ConfigurationError, match="can not be deleted: Operation not permitted"):
            store.remove(stored)
    assert store.all() == [stored]


def _add_again_and_again(folder: Path, image: Path, begin: Barrier, failed: Queue[str]) -> None:
    """In a process of its own, which is slow where another could come between."""
    slow = shutil.copyfile

    def copyfile(source: Path, target: Path) -> None:
        time.sleep(0.05)
        slow(source, target)

    shutil.copyfile = copyfile  # type: ignore[assignment]
    store = MapStore(folder)
    begin.wait()
    for _ in range(5):
        try:
            store.add(image)
        except Exception as error:  # noqa: BLE001 - told to the test
            failed.put(f"{type(error).__name__}: {error}")


def test_two_that_add_the_same_package_do_not_hinder_each_other(image: Path, store: MapStore) -> None:
    context = get_context("fork")
    begin, failed = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=_add_again_and_again, args=(store.folder, image, begin, failed))
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert failed.empty(), failed.get()
    (stored,) = store.all()
    assert store.open(stored).digest == stored.digest
    assert not list(store.folder.glob(".*.part"))


def test_while_a_package_is_added_again_jobs_find_it(image: Path, store: MapStore) -> None:
    """One that was damaged is exchanged as a whole; of one that is not, no byte is touched."""
    stored = store.add(image)
    file = store.place(stored) / "image.oci"
    before = file.stat()
    store.add(image, name="other")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.write_bytes(b"damaged")
    adding = get_context("fork").Process(target=_add_slowly, args=(store.folder, image))
    adding.start()
    while adding.is_alive():
        assert store.get(stored.digest).digest == stored.digest
    assert adding.exitcode == 0
    assert store.open(stored).digest == stored.digest


def _add_slowly(folder: Path, image: Path) -> None:
    """Between what was there and what comes, it waits."""
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        time.sleep(0.3)
        return rename(path, target)

    Path.rename = late  # type: ignore[method-assign]
    MapStore(folder).add(image)


def test_an_image_that_is_not_whole_is_not_taken_in(image: Path, store: MapStore) -> None:
    image.write_bytes(image.read_bytes().replace(b"print('done')", b"print('evil')"))
    with pytest.raises(InputError, match="is not what its digest says"):
        store.add(image)
    assert store.all() == []


def test_an_image_that_was_exchanged_in_the_store_is_not_opened(
    tmp_path: Path, image: Path, store: MapStore
) -> None:
    stored = store.add(image)
    recipe = good()
    recipe.content.files["opt/holoscan/app/__main__.py"] = b"print('evil')\n"
    (tmp_path / "other").mkdir()
    shutil.copy(recipe.write_image(tmp_path / "other"), store.place(stored) / "image.oci")
    with pytest.raises(InputError, match="the image in the store has the digest"):
        store.open(stored)


def test_what_is_no_package_is_not_taken_in(tmp_path: Path, store: MapStore) -> None:
    recipe = good()
    recipe.app = None
    with pytest.raises(InputError, match=r"/etc/holoscan/app\.json"):
        store.add(recipe.write_image(tmp_path))


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_signature_by_a_trusted_key_is_asked_for(kind: str, tmp_path: Path, image: Path) -> None:
    digest = MapStore(tmp_path / "none").add(image).digest
    key = (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )
    other = ed25519.Ed25519PrivateKey.generate()
    keys = [_public(other, tmp_path / "other.pem"), _public(key, tmp_path / "key.pem")]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(digest.encode())
    else:
        signature = (
            base64.b64encode(key.sign(digest.encode(), ec.ECDSA(SHA256()))) + b"\n"
        )  # as cosign writes it
    store = MapStore(tmp_path / "maps", keys)
    with pytest.raises(ConfigurationError, match="is not signed"):
        store.add(image)
    with pytest.raises(ConfigurationError, match="is signed with another key"):
        store.add(image, signature=ed25519.Ed25519PrivateKey.generate().sign(digest.encode()))
    stored = store.add(image, signature=signature)
    assert store.signed_by(stored) == keys[1]
    # Who is not trusted any more is asked at the next job.
    with pytest.raises(ConfigurationError, match="is signed with another key"):
        MapStore(tmp_path / "maps", keys[:1]).get(stored.digest)


def test_what_it_says_of_itself_is_believed_by_more_than_its_own_word(tmp_path: Path) -> None:
    recipe = good()
    recipe.content.files["var/holoscan/app.yaml"] = b"isocenter: {}\n"
    image = recipe.write_image(tmp_path)
    plain = MapStore(tmp_path / "plain")
    stored = plain.add(image)
    assert (stored.ours, stored.vendor, plain.believed(stored)) == (True, "unknown", False)
    vouched = plain.add(image, vouched=True)
    assert (vouched.vendor, plain.believed(plain.get(vouched.digest))) == ("unknown", True)
    key = ed25519.Ed25519PrivateKey.generate()
    signed = MapStore(tmp_path / "signed", [_public(key, tmp_path / "key.pem")])
    assert signed.believed(signed.add(image, signature=key.sign(stored.digest.encode())))


def test_adding_it_says_whether_it_is_believed(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours").mkdir()
    recipe = good()
    recipe.content.files["var/holoscan/app.yaml"] = b"isocenter: {}\n"
    ours = recipe.write_image(tmp_path / "ours")
    for words, said in (
        ([str(ours), "--vouch"], "it is vouched for: where it answers `not applicable`, that is believed\n"),
        ([str(ours)], "nobody vouches for it"),
        ([str(image)], ""),
    ):
        assert main(["map", "add", *words, "--name", "liver"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("map://liver@sha256:")
        assert len(out.splitlines()) == 1  # for scripts
        assert said in err
        assert ("vouch" in err) is bool(said)


def test_nobody_vouches_for_what_is_not_ours(image: Path, store: MapStore) -> None:
    with pytest.raises(InputError, match="has no isocenter: block"):
        store.add(image, vouched=True)
    assert store.all() == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_such_signatures(tmp_path: Path, image: Path) -> None:
    """As docs/maps.md tells it."""
    digest = MapStore(tmp_path / "none").add(image).digest
    (tmp_path / "digest").write_text(digest)
    for words in (
        "genpkey -algorithm ed25519 -out key.pem",
        "pkey -in key.pem -pubout -out public.pem",
        "pkeyutl -sign -rawin -inkey key.pem -in digest -out signature",
    ):
        subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    store = MapStore(tmp_path / "maps", [tmp_path / "public.pem"])
    store.add(image, signature=(tmp_path / "signature").read_bytes())


def test_a_file_that_is_no_key_is_named(tmp_path: Path, image: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ConfigurationError, match=r"key\.pem is no public key in PEM"):
        MapStore(tmp_path / "maps", [tmp_path / "key.pem"]).add(image, signature=b"x" * 64)


def test_a_route_names_a_package_by_its_digest_alone() -> None:
    reference = f"map://liver@sha256:{'0' * 64}"
    assert Route(name="r", application=reference).applications == (reference,)
    for wrong in ("map://liver", "map://liver:1.0", "map://Liver@sha256:00"):
        with pytest.raises(ValidationError, match="name a package by its digest"):
            Route(name="r", application=wrong)
    with pytest.raises(ValidationError, match="is given the new study alone"):
        Route(name="r", application=reference, priors={})


def test_the_catalogue_knows_packages_and_what_a_job_of_one_was_made_for(tmp_path: Path, image: Path) -> None:
    (tmp_path / "apps").mkdir()
    settings = Settings(data_dir=tmp_path / "data", apps_dir=tmp_path / "apps")
    stored = MapStore(settings.maps_dir).add(image, name="liver")
    catalog = Catalog.weighed(settings)
    assert catalog.names == {stored.reference}
    app = catalog.for_study(stored.reference, "1.2")
    assert (app.name, app.version, app.deadline_s) == ("map://liver", "1.0.0", 600)
    assert catalog.for_job(app.algorithm, "1.2").algorithm == app.algorithm
    assert catalog.stored(app) == stored
    with pytest.raises(ConfigurationError, match="there is no package with the digest"):
        catalog.for_study(f"map://liver@sha256:{'0' * 64}", "1.2")


def test_a_newer_image_replaces_the_results_of_the_one_before(tmp_path: Path, image: Path) -> None:
    """Another image is other work, about the same subject."""
    (tmp_path / "apps").mkdir()
    settings = Settings(data_dir=tmp_path / "data", apps_dir=tmp_path / "apps")
    store = MapStore(settings.maps_dir)
    recipe = good()
    recipe.content.files["opt/holoscan/app/__main__.py"] = b"print('better')\n"
    (tmp_path / "newer").mkdir()
    both = [store.add(each, name="liver") for each in (image, recipe.write_image(tmp_path / "newer"))]
    specs = [
        JobSpec(
            Catalog.of(settings).for_study(each.reference, "1.2").algorithm,
            "1.2",
            ("1.2.3",),
            ("1.2.3.4",),
            "r",
        )
        for each in both
    ]
    assert specs[0].identity.job_id != specs[1].identity.job_id
    assert specs[0].subject == specs[1].subject


def test_what_is_unpacked_goes_with_its_package_but_not_from_under_a_job(
    tmp_path: Path, image: Path, store: MapStore
) -> None:
    stored = store.add(image)
    package = store.open(stored)
    root = cast(RootFolder, unpacked(package, store.cache).unpacked).folder
    recipe = good()
    recipe.content.files["opt/holoscan/app/__main__.py"] = b"print('other')\n"
    (tmp_path / "other").mkdir()
    other = store.open(store.add(recipe.write_image(tmp_path / "other")))
    others = cast(RootFolder, unpacked(other, store.cache).unpacked).folder
    context = get_context("fork")
    began, over = context.Event(), context.Event()
    job = context.Process(target=_use, args=(package, store.cache, began, over))
    job.start()
    began.wait()
    store.remove(stored)
    assert root.is_dir()
    over.set()
    job.join()
    (store.cache / f".{root.name}.part").mkdir()  # of a process that died
    store.forget_unpacked()
    assert not root.exists()
    assert others.is_dir()
    assert [each for each in store.cache.iterdir() if each.suffix != ".lock"] == [others]


def _use(package: Package, cache: Path, began: Event, over: Event) -> None:
    with in_use(package, cache):
        began.set()
        over.wait()


def test_what_was_not_used_for_a_month_is_forgotten(tmp_path: Path, image: Path) -> None:
    package = open_package(image)
    root = cast(RootFolder, unpacked(package, tmp_path / "cache").unpacked).folder
    forget_old(tmp_path / "cache")
    assert root.is_dir()
    month_ago = time.time() - 31 * 86400
    os.utime(root.with_name(f".{root.name}.used.lock"), (month_ago, month_ago))
    forget_old(tmp_path / "cache")
    assert not root.exists()


def test_the_commands(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apps").mkdir()
    config = tmp_path / "isocenter.yaml"
    config.write_text(yaml.safe_dump({"apps_dir": str(tmp_path / "apps"), "routes": []}))
    assert main(["map", "add", str(image), "--name", "liver"]) == 0
    reference = capsys.readouterr().out.strip()
    assert main(["map", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)[0]
    assert (listed["application"], listed["in_a_route"], listed["signed_by"]) == (reference, False, None)
    config.write_text(
        yaml.safe_dump(
            {"apps_dir": str(tmp_path / "apps"), "routes": [{"name": "r", "application": reference}]}
        )
    )
    assert main(["rules", "check"]) == 0
    assert main(["map", "remove", reference]) == 2
    assert "the route 'r' names it" in capsys.readouterr().err
    assert main(["map", "remove", reference, "--force"]) == 0
    assert main(["rules", "check"]) == 2
    assert "there is no package map://liver@sha256:" in capsys.readouterr().err
    assert main(["map", "list"]) == 0
    assert capsys.readouterr().out.startswith("none;")


def test_a_package_is_taken_in_where_nothing_can_run_it(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the container of a gateway: workers are elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert main(["map", "add", str(image), "--name", "liver"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("map://liver@sha256:")
    assert "nothing here can run a package" in err
    assert main(["map", "run", str(image), "-i", str(tmp_path), "-o", str(tmp_path / "out")]) == 2


def test_settings_name_a_key_that_is_wrong() -> None:
    with pytest.raises(ValidationError, match="engine"):
        MapSettings(engine="lxc")
