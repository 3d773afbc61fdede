"""Whether what a package's manifests name is in it: folders, models, the program, and what the environment repeats."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from isocenter.maps.filesystem import Entry
from isocenter.maps.finding import Finding, error, warning
from isocenter.maps.manifests import MONAI, ApplicationManifest, PackageManifest
from isocenter.maps.package import Package
from isocenter.maps.user import User, may_write, user_of

__all__ = ["environment_of", "path_findings", "program_of"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of an image that sets none
_EXECUTABLE = 0o111


def path_findings(package: Package) -> Iterator[Finding]:
    """Of whichever manifest can be read."""
    application, manifest = package.application_reading, package.package_reading
    if manifest and manifest.manifest:
        yield from _roots(package, manifest.manifest)
        yield from _models(package, manifest.manifest)
    if application and application.manifest:
        yield from _folders(package, application.manifest)
        yield from _command(package, application.manifest)
        yield from _environment(package, application.manifest)


def environment_of(package: Package) -> dict[str, str]:
    """What the image sets, and over it what the application's manifest does."""
    reading = package.application_reading
    own = reading.manifest.environment if reading and reading.manifest else {}
    return {"PATH": _PATH, **package.config.config.environment, **own}


def program_of(package: Package, name: str, directory: str) -> Entry | None:
    """The file that this word of a command starts, as a shell would find it; None where there is none."""
    if "/" in name:
        return package.files.find(posixpath.join(directory, name))
    for folder in environment_of(package).get("PATH", _PATH).split(":"):
        found = package.files.find(posixpath.join(folder, name))
        if found is not None and found.kind == "file" and found.mode & _EXECUTABLE:
            return found
    return None


def _roots(package: Package, manifest: PackageManifest) -> Iterator[Finding]:
    file = package.layout.package_manifest
    if manifest.application_root is None:
        yield warning(
            "application-root-absent",
            f"{file}#applicationRoot",
            f"it is not stated: {package.layout.application_root} is assumed",
            "state it",
        )
    named = [("application-root", "applicationRoot", manifest.application_root_in(package.layout))]
    if manifest.models or manifest.model_root is not None:
        named.append(("model-root", "modelRoot", manifest.model_root_in(package.layout)))
    for name, key, path in named:
        if not posixpath.isabs(path):
            yield error(
                f"{name}-relative", f"{file}#{key}", f"{path!r} is no absolute path", "begin it with /"
            )
        elif not _is_folder(package, path) and (name == "application-root" or manifest.models):
            yield error(
                f"{name}-not-there", f"{file}#{key}", f"there is no folder {path}", "name the folder that is"
            )


def _models(package: Package, manifest: PackageManifest) -> Iterator[Finding]:
    file, root = package.layout.package_manifest, manifest.model_root_in(package.layout)
    if not posixpath.isabs(root):
        return
    for model, path in package.models:
        if not package.files_below(path):
            yield error(
                "model-missing",
                f"{file}#models",
                f"{model.name}: {'there is nothing' if not package.has(path) else 'no file is'} in {path}",
                "package it with its models, or state where on the host they are to be mounted",
            )
    named = [path for _, path in package.models]
    for entry in _children(package, root):
        path = f"/{entry.path}"
        if package.files_below(path) and not any(
            _within(each, path) or _within(path, each) for each in named
        ):
            yield warning(
                "model-unlisted",
                path,
                "a model that the manifest does not name",
                "name it under models, or leave it out",
            )


def _folders(package: Package, manifest: ApplicationManifest) -> Iterator[Finding]:
    layout, file = package.layout, package.layout.application_manifest
    working = manifest.working_directory_in(layout)
    if not posixpath.isabs(working):
        yield error(
            "working-directory-relative",
            f"{file}#workingDirectory",
            f"{working!r} is no absolute path",
            "begin it with /",
        )
        return
    if not _is_folder(package, working):
        yield error(
            "working-directory-not-there",
            f"{file}#workingDirectory",
            f"there is no folder {working}: the command can not be started in it",
            "make it when the image is built",
        )
    for name, path in (("input", manifest.input_path(layout)), ("output", manifest.output_path(layout))):
        if not _is_folder(package, path):
            yield warning(
                f"{name}-not-there",
                f"{file}#{name}.path",
                f"there is no folder {path}: an engine makes it, and it belongs to root",
                "make it when the image is built, for the user that the application runs as",
            )
    if _within(manifest.output_path(layout), manifest.input_path(layout)):
        yield error(
            "output-in-input",
            f"{file}#output.path",
            f"results go to {manifest.output_path(layout)}, which is in the input, and that can only be read",
            "give the output a folder of its own",
        )
    yield from _writable(package, manifest.output_path(layout))


def _writable(package: Package, path: str) -> Iterator[Finding]:
    user, found = user_of(package), package.files.find(path)
    if package.image is None or found is None or not isinstance(user, User) or may_write(user, found):
        return
    yield warning(
        "output-not-writable",
        path,
        f"it belongs to user {found.uid}, and the application runs as {user.uid}: unless the host's folder allows it, "
        "no result is written",
        "give the folder to the user when the image is built",
    )


def _command(package: Package, manifest: ApplicationManifest) -> Iterator[Finding]:
    place = f"{package.layout.application_manifest}#command"
    try:
        words = manifest.arguments
    except ValueError as wrong:
        yield error(
            "command-unparsable", place, str(wrong), "write a shell command, or a list of strings in JSON"
        )
        return
    if not words:
        yield error("command-missing", place, "it is empty", "state the command that runs the application")
        return
    directory = manifest.working_directory_in(package.layout)
    program = program_of(package, words[0], directory)
    if program is None:
        yield error(
            "command-program-missing",
            place,
            f"{words[0]} is not in the package",
            "install it, or name what is there",
        )
    elif program.kind != "file" or not program.mode & _EXECUTABLE:
        yield error("command-not-executable", place, f"/{program.path} can not be executed", "chmod +x it")
    for word in words[1:]:
        if word.startswith("/") and not package.has(word) and not _within(word, directory):
            yield error("command-file-missing", place, f"{word} is not in the package", "name what is there")


def _environment(package: Package, manifest: ApplicationManifest) -> Iterator[Finding]:
    layout, file = package.layout, package.layout.application_manifest
    reading = package.package_reading
    root = reading.manifest.model_root_in(layout) if reading and reading.manifest else layout.model_root
    working = manifest.working_directory_in(layout)
    meant = {
        layout.input_variable: manifest.input_path(layout),
        layout.output_variable: manifest.output_path(layout),
        layout.model_variable: root,
        layout.working_directory_variable: working,
    }
    image = package.config.config.environment
    for where, given in ((f"{file}#environment", manifest.environment), ("image Env", image)):
        yield from _contradictions(meant, given, where, working, package.models)
    absent = [name for name in meant if name not in manifest.environment and name not in image]
    if absent and layout is not MONAI:
        yield warning(
            "environment-absent",
            f"{file}#environment",
            f"{', '.join(absent)} not set: an application that asks its environment finds no folder",
            "set them in the manifest's environment",
        )


def _contradictions(
    meant: Mapping[str, str],
    given: Mapping[str, str],
    where: str,
    working: str,
    models: tuple[tuple[object, str], ...],
) -> Iterator[Finding]:
    for name, path in meant.items():
        if name not in given:
            continue
        said = posixpath.normpath(posixpath.join(working, given[name]))
        if said == posixpath.normpath(path) or any(_within(model, said) for _, model in models):
            continue
        yield error(
            "environment-contradicts",
            f"{where} {name}",
            f"it says {given[name]}, the manifest {path}: the application looks where nothing is",
            "state the same in both",
        )


def _is_folder(package: Package, path: str) -> bool:
    found = package.files.find(path)
    if found is not None:
        return found.kind == "directory"
    inner = path.strip("/")  # a layer may leave out the entries of folders
    return not inner or any(entry.path.startswith(f"{inner}/") for entry in package.files.entries())


def _children(package: Package, path: str) -> list[Entry]:
    root = package.files.find(path)
    if root is None:
        return []
    prefix = f"{root.path}/" if root.path else ""
    return [
        entry
        for entry in package.files.entries()
        if entry.path.startswith(prefix) and "/" not in entry.path.removeprefix(prefix)
    ]


def _within(path: str, folder: str) -> bool:
    """Whether `path` is the folder, or in it."""
    inner, outer = (posixpath.normpath(posixpath.join("/", each)) for each in (path, folder))
    return posixpath.commonpath((inner, outer)) == outer
