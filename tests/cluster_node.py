"""A node for tests/cluster.py's Kubernetes: the kubelet and the proxy, in the namespaces of tests/engines.py's Docker.

Pods are Docker's containers, on a bridge by Debian's CNI plugins. Nothing enforces NetworkPolicies. Names of Services
are told by a dnsmasq that is given them, in the place of a cluster's DNS.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster import BUILT, Cluster, running
from engines import command

__all__ = ["NODE", "running_node", "tell_names", "write_runtime"]

NODE = "10.0.2.100"  # by slirp4netns
_PODS = "10.244.0.0/24"
_READY = "kubectl get node node -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}'"
# What the kubelet sets where it is otherwise. It finds it as it wants it, so that it sets nothing of this machine.
_KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
# The kubelet wants the kernel to spare what holds a pod together, which root in a container may not ask for.
_RUNTIME = """#!/bin/sh
for word; do
  [ "$last" = --bundle ] && sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$word/config.json"
  last=$word
done
exec runc "$@"
"""


def write_runtime(folder: Path) -> Path:
    """What the node's Docker is to run in the place of runc."""
    (folder / "runtime").write_text(_RUNTIME)
    (folder / "runtime").chmod(0o755)
    return folder / "runtime"


@contextmanager
def running_node(cluster: Cluster, inside: list[str]) -> Iterator[None]:
    """One node named `node`, which says that it has a GPU, and has none."""
    folder = cluster.folder / "node"
    (folder / "network").mkdir(parents=True)
    (folder / "kernel").mkdir()
    (folder / "network" / "pods.conflist").write_text(json.dumps(_network(folder)))
    within = [*inside, "--mount", "--pid"]
    for name, value in _KERNEL.items():
        file = folder / "kernel" / name.replace("/", ".")
        file.write_text(f"{value}\n")
        _run([*within, "mount", "--bind", str(file), f"/proc/sys/{name}"])
    # Docker lets nothing through that it does not know; pods ask each other through Services.
    _run([*within, "iptables", "--policy", "FORWARD", "ACCEPT"])
    _run([*within, "sh", "-c", "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables"])
    with ExitStack() as parts:
        parts.enter_context(running([*within, *_kubelet(cluster, folder)], cluster.folder / "kubelet.log"))
        parts.enter_context(running([*within, *_proxy(cluster)], cluster.folder / "kube-proxy.log"))
        give_up = time.monotonic() + 120
        while "True" not in cluster.run(_READY).stdout:
            assert time.monotonic() < give_up, (cluster.folder / "kubelet.log").read_text()[-3000:]
            time.sleep(1)
        gpu = {"status": {"capacity": {"nvidia.com/gpu": "1"}}}
        cluster.kubectl("patch", "node", "node", "--subresource=status", f"--patch={json.dumps(gpu)}")
        yield


def _network(folder: Path) -> dict[str, Any]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": _PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,  # a pod that asks its own Service
        "ipam": {**addresses, "dataDir": str(folder / "addresses")},
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def tell_names(cluster: Cluster) -> None:
    """Starts what answers the pods' questions for Services, as they are now."""
    records = [
        f"--host-record={name}.isocenter.svc.cluster.local,{each['spec']['clusterIP']}"
        for name, each in cluster.get("services").items()
    ]
    words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
    ]
    words += [f"--listen-address={NODE}", "--local=/cluster.local/", *records]
    done = command("docker", "run", "--detach", "--rm", "--network=host", "isocenter-base/names", *words)
    assert done.returncode == 0, done.stderr


def _kubelet(cluster: Cluster, folder: Path) -> list[Path | str]:
    return [
        BUILT / "kubelet",
        f"--kubeconfig={cluster.kubeconfig}",
        "--hostname-override=node",
        f"--node-ip={NODE}",
        "--container-runtime=docker",
        f"--docker-endpoint={os.environ['DOCKER_HOST']}",
        "--pod-infra-container-image=isocenter-base/pause",
        f"--root-dir={folder / 'root'}",
        f"--cert-dir={folder / 'certificates'}",
        f"--volume-plugin-dir={folder / 'plugins'}",
        "--network-plugin=cni",
        f"--cni-bin-dir={BUILT / 'cni'}",
        f"--cni-conf-dir={folder / 'network'}",
        f"--cni-cache-dir={folder / 'cache'}",
        f"--cluster-dns={NODE}",
        "--cluster-domain=cluster.local",
        "--cgroup-driver=cgroupfs",
        # Groups of containers are Docker's, below its own; there are none of pods.
        "--cgroups-per-qos=false",
        "--enforce-node-allocatable=",
        "--fail-swap-on=false",
        # Nobody reaches it but what is in its network namespace.
        "--authorization-mode=AlwaysAllow",
        "--read-only-port=0",
        # This machine's disk is its own matter.
        "--eviction-hard=memory.available<100Mi",
        "--image-gc-high-threshold=100",
    ]


def _proxy(cluster: Cluster) -> list[Path | str]:
    return [
        BUILT / "kube-proxy",
        f"--kubeconfig={cluster.kubeconfig}",
        "--hostname-override=node",
        "--proxy-mode=iptables",
        f"--cluster-cidr={_PODS}",
        # The kernel's own.
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    ]


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
