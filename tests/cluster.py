"""A real Kubernetes for tests: etcd, the API server, the controllers and the scheduler, of what
scripts/fetch_kubernetes.sh has built, started for the test alone on loopback. It has no nodes by itself.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from commands import ROOT
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from engines import end
from ports import free_port

__all__ = ["BUILT", "Cluster", "running", "running_cluster"]

BUILT = ROOT / ".cache" / "kubernetes"
_STARTS_WITHIN_S = 180.0
_TOKEN = "of-the-test"


@dataclass(frozen=True)
class Cluster:
    """`kubeconfig`: its administrator's. `inside`: the words before a command that is to reach the API server."""

    folder: Path
    kubeconfig: Path
    inside: Sequence[str]

    def run(self, line: str, place: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A line as a guide has it, by a shell, with the kubectl that this project's Python environment has."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        return subprocess.run(
            [*self.inside, "bash", "-c", line],
            cwd=place,
            env={**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    def kubectl(self, *words: str) -> str:
        """What it answers; it has to succeed."""
        done = self.run(shlex.join(("kubectl", *words)))
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
        return done.stdout

    def get(self, kind: str, name: str = "", namespace: str = "isocenter") -> Any:
        """One object, or all of a kind, by name."""
        got = json.loads(
            self.kubectl("get", kind, *filter(None, [name]), f"--namespace={namespace}", "-o=json")
        )
        return got if name else {each["metadata"]["name"]: each for each in got["items"]}


@contextmanager
def running(words: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the cluster, ended with the block."""
    with log.open("wb") as written:
        process = subprocess.Popen(list(map(str, words)), stdout=written, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end(process)


@contextmanager
def running_cluster(folder: Path, inside: Sequence[str] = ()) -> Iterator[Cluster]:
    """`inside` are the words before a command that is to run where the API server is to be; none for this machine."""
    client, peer, secure = free_port(), free_port(), free_port()
    _write_keys(folder)
    kubeconfig = _write_kubeconfig(folder, secure)
    cluster = Cluster(folder, kubeconfig, inside)
    with ExitStack() as parts:

        def start(words: list[Path | str]) -> subprocess.Popen[bytes]:
            return parts.enter_context(running([*inside, *words], folder / f"{Path(words[0]).name}.log"))

        start(_etcd(folder, client, peer))
        server = start(_api_server(folder, client, secure))
        _await(cluster, "kubectl get --raw /readyz", [server])  # which makes its certificate first
        controllers = [start(words) for words in _controllers(folder, kubeconfig)]
        _await(cluster, "kubectl get serviceaccount default", controllers)
        yield cluster


def _await(cluster: Cluster, line: str, parts: list[subprocess.Popen[bytes]]) -> None:
    give_up = time.monotonic() + _STARTS_WITHIN_S
    while cluster.run(line).returncode:
        late = time.monotonic() > give_up or any(each.poll() is not None for each in parts)
        assert not late, _said(cluster.folder)
        time.sleep(0.5)


def _said(folder: Path) -> str:
    return "\n".join(log.read_text(errors="replace")[-1500:] for log in folder.glob("*.log"))


def _write_keys(folder: Path) -> None:
    """With which the API server signs service accounts' tokens, and the administrator's token."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (folder / "tokens.csv").write_text(f"{_TOKEN},administrator,administrator,system:masters\n")


def _write_kubeconfig(folder: Path, port: int) -> Path:
    certificates = str(folder / "certificates" / "apiserver.crt")
    server = {"server": f"https://127.0.0.1:{port}", "certificate-authority": certificates}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "test", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(content))
    return folder / "kubeconfig"


def _etcd(folder: Path, client: int, peer: int) -> list[Path | str]:
    return [
        BUILT / "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    ]


def _api_server(folder: Path, etcd: int, port: int) -> list[Path | str]:
    return [
        BUILT / "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # Nobody's (RFC 5737): nothing in the cluster asks the API server.
        "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
        f"--cert-dir={folder / 'certificates'}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--anonymous-auth=false",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _controllers(folder: Path, kubeconfig: Path) -> list[list[Path | str]]:
    common: list[Path | str] = [
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--port=0",
        "--secure-port=0",
    ]
    manager: list[Path | str] = [
        BUILT / "kube-controller-manager",
        f"--service-account-private-key-file={folder / 'accounts.key'}",
        f"--root-ca-file={folder / 'certificates' / 'apiserver.crt'}",
    ]
    return [[*manager, *common], [BUILT / "kube-scheduler", *common]]
