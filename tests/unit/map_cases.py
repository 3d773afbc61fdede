"""A MONAI Application Package that nothing is wrong with, to be broken in one place by each test."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isocenter.maps.image_config import ContainerConfig, ImageConfig
from isocenter.maps.image_writer import Draft, write_image
from isocenter.maps.layer import LayerContent, write_layer

PYTHON = Path("/usr/bin/python3")

# An application without any library: it hands back the first image under UIDs of its own, random as everybody's are.
COPY_AS_RESULT = """
import os, pathlib, random, sys
source, target = (pathlib.Path(os.environ[f"HOLOSCAN_{each}_PATH"]) for each in ("INPUT", "OUTPUT"))
content = min(source.iterdir()).read_bytes()

def value(tag):
    at = content.index(tag + b"UI")
    size = int.from_bytes(content[at + 6 : at + 8], "little")
    return content[at + 8 : at + 8 + size].rstrip(bytes(1))

for tag in (bytes((8, 0, 0x18, 0)), bytes((0x20, 0, 0x0E, 0))):
    old = value(tag)
    content = content.replace(old, old[:-10] + "".join(random.choices("123456789", k=10)).encode())
print("images", len(list(source.iterdir())))
if (pathlib.Path(__file__).parent / "fail").exists():
    sys.exit(3)
if (pathlib.Path(__file__).parent / "nobody").exists() and b"Phantom^Thorax" in content:
    sys.exit(4)
(target / f"{random.random()}.dcm").write_bytes(content)
"""
WEIGHTS = b"not really weights, but bytes\n"
BASE_DIGEST = f"sha256:{'b' * 64}"


# What packages are told to do: hand back the first image; what none may do, and what each needs.
COPY = """
import os, pathlib, shutil
source, target = (pathlib.Path(os.environ[f"HOLOSCAN_{each}_PATH"]) for each in ("INPUT", "OUTPUT"))
for file in sorted(source.iterdir())[:1]:
    shutil.copyfile(file, target / f"{file.name}.dcm")
"""
ATTEMPTS = {
    "to change the input": "open('/var/holoscan/input/new', 'w')",
    "to change its code": "open('/opt/holoscan/app/new', 'w')",
    "to write to its root": "open('/new', 'w')",
    "to change the kernel": "open('/proc/sys/kernel/panic', 'r+').write('0')",
    "to reach the network": "socket.create_connection(('192.0.2.1', 80), timeout=2)",
    "to become root": "os.setuid(0)",
    "to mount": "subprocess.run(['mount', '-t', 'tmpfs', 'none', '/tmp'], check=True, capture_output=True)",
    "to be root elsewhere": "subprocess.run(['unshare', '-Ur', 'true'], check=True, capture_output=True)",
    "to read the host's files": "open(os.environ['SECRET'])",
    "to see the host's processes": "open(f\"/proc/{os.environ['PROCESS']}/status\")",
}
ALLOWED = {
    "its memory": "open('/tmp/new', 'w').write('x')",
    "its working directory": "open('/var/holoscan/new', 'w').write('x')",
    "shared memory": "open('/dev/shm/new', 'w').write('x')",
    "its loopback": "server = socket.create_server(('localhost', 0)); socket.create_connection(server.getsockname())",
    "random numbers": "open('/dev/urandom', 'rb').read(8)",
}


@dataclass
class Recipe:
    """What the package is made of; `app` and `pkg` are written as its manifests, None is left out."""

    app: Any
    pkg: Any
    content: LayerContent
    config: dict[str, Any]
    architecture: str = "amd64"
    manifests: str = "etc/holoscan"
    _raw: dict[str, bytes] = field(default_factory=dict)

    def write_image(self, folder: Path) -> Path:
        """An OCI archive in `folder`."""
        content = self._whole()
        layer = write_layer(content, folder / "layer.tar", epoch=0)
        config = ImageConfig(
            architecture=self.architecture, config=ContainerConfig.model_validate(self.config)
        )
        write_image(Draft(config, (layer,), tag="good:1.0.0"), folder / "good.oci")
        return folder / "good.oci"

    def write_folder(self, folder: Path) -> Path:
        """The same unpacked: the root of its file system."""
        content = self._whole()
        for path in sorted(content.every_folder()):
            (folder / path).mkdir(parents=True, exist_ok=True)
            (folder / path).chmod(content.modes.get(path, 0o755))
        for path, what in content.files.items():
            assert isinstance(what, bytes)
            (folder / path).write_bytes(what)
            (folder / path).chmod(content.modes.get(path, 0o755 if path in content.executable else 0o644))
        return folder

    def _whole(self) -> LayerContent:
        for name, document in (("app", self.app), ("pkg", self.pkg)):
            if document is not None:
                raw = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.content.files[f"{self.manifests}/{name}.json"] = raw
        return self.content


def good() -> Recipe:
    """Nothing is wrong with this one."""
    content = LayerContent()
    content.folders |= {"var/holoscan/input", "var/holoscan/output", "opt/holoscan/docs", "tmp"}
    content.modes["tmp"] = 0o1777
    content.owned["var/holoscan/output"] = (1000, 1000)
    content.files |= {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nholoscan:x:1000:1000::/home/holoscan:/bin/sh\n",
        "etc/group": b"root:x:0:\nholoscan:x:1000:\n",
        "usr/bin/python3": b"#!/bin/sh\n",
        "opt/holoscan/app/__main__.py": b"print('done')\n",
        "opt/holoscan/models/liver/model.ts": WEIGHTS,
        "opt/holoscan/sbom.cdx.json": json.dumps(
            {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "python3"}]}
        ).encode(),
    }
    content.executable.add("usr/bin/python3")
    return Recipe(app=good_app(), pkg=good_pkg(), content=content, config=good_config())


def add_program(recipe: Recipe, program: Path) -> None:
    """One of this machine's, with the libraries that it is linked with."""
    linked = subprocess.run(["ldd", program.resolve()], capture_output=True, text=True, check=True).stdout
    for word in (str(program), *(each for each in linked.split() if each.startswith("/"))):
        recipe.content.files[word.lstrip("/")] = Path(word).resolve()
        recipe.content.executable.add(word.lstrip("/"))


def add_python(recipe: Recipe) -> None:
    """The system's Python and its standard library, in place of the one that does nothing."""
    words = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]
    library = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    recipe.content.folders.add(f"{library}/lib-dynload".lstrip("/"))  # it asks for it, loudly
    for file in Path(library).rglob("*.py"):
        if "test" not in file.parts and not file.is_symlink():
            recipe.content.files[str(file).lstrip("/")] = file
    add_program(recipe, PYTHON)


def good_app() -> dict[str, Any]:
    return {
        "apiVersion": "1.0.0",
        "command": '["python3", "/opt/holoscan/app"]',
        "environment": {
            "HOLOSCAN_INPUT_PATH": "/var/holoscan/input",
            "HOLOSCAN_OUTPUT_PATH": "/var/holoscan/output",
            "HOLOSCAN_MODEL_PATH": "/opt/holoscan/models",
            "HOLOSCAN_WORKDIR": "/var/holoscan",
        },
        "input": {"path": "input", "formats": ["DICOM"]},
        "output": {"path": "output", "format": "DICOM"},
        "sdk": "monai-deploy",
        "sdkVersion": "4.0.0",
        "timeout": 600,
        "version": "1.0.0",
        "workingDirectory": "/var/holoscan",
    }


def good_pkg() -> dict[str, Any]:
    return {
        "apiVersion": "1.0.0",
        "applicationRoot": "/opt/holoscan/app",
        "modelRoot": "/opt/holoscan/models",
        "models": [{"name": "liver", "path": "liver"}],
        "resources": {"cpu": 2, "gpu": 0, "memory": "2Gi", "sharedMemory": "64Mi"},
        "version": "1.0.0",
    }


def good_config() -> dict[str, Any]:
    return {
        "User": "holoscan",
        "Entrypoint": ["python3", "/opt/holoscan/app"],
        "WorkingDir": "/var/holoscan",
        "Env": ["PATH=/usr/bin"],
        "Labels": {
            "org.opencontainers.image.version": "1.0.0",
            "org.opencontainers.image.base.name": "debian:12",
            "org.opencontainers.image.base.digest": BASE_DIGEST,
            "org.isocenter.model.liver": hashlib.sha256(WEIGHTS_COUNTED).hexdigest(),
        },
    }


WEIGHTS_COUNTED = f"model.ts\0{len(WEIGHTS)}\0".encode() + WEIGHTS


def with_python(recipe: Recipe, program: str) -> Recipe:
    """It runs the program."""
    add_python(recipe)
    recipe.content.files["opt/holoscan/app/__main__.py"] = program.encode()
    return recipe
