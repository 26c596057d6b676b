"""Runs what manifests describe as plain processes, and uses it.

    run.py --atoll BINARY FILE...

A FILE is rendered Kubernetes manifests, or the compose file. For each: every container of Atoll's is started
as its manifest says; probes or health checks have to become content; a transaction and a short load go through
the gateway; Jobs run; connections are compared with the network policies; then everything gets SIGTERM and has
to end with 0 within its grace period.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

import grpc

import manifests
from processes import Failed, Processes, last_lines, until
from sources import Image, from_compose, from_kubernetes

HERE = pathlib.Path(__file__).parent
DOCKERFILE = HERE.parent.parent / "deploy" / "Dockerfile"
PAYEE = "0x00000000000000000000000000000000000a7011"
# What a Job is told instead, so that it is over soon.
SHORT = {"--accounts": "20", "--rate": "50", "--duration": "2s"}


def opened(path, atoll, directory):
    image = Image(DOCKERFILE)
    if "compose" in path.name:
        documents = None
        processes, resolve = from_compose(path, image)
    else:
        documents = manifests.load(path)
        processes, resolve = from_kubernetes(documents, image)
    return documents, Processes(atoll, directory, image, processes, resolve)


def funded(cluster):
    """More arguments that fund the development accounts, where the configuration does not."""
    texts = [text for p in cluster.services() for files in p.mounts.values() for text in (files or {}).values()]
    return [] if any("development = true" in text for text in texts) else ["--set", "chain.development=true"]


def gateway_of(cluster):
    name = "atoll-gateway" if cluster.all[0].pod else "gateway"
    process, port = cluster.resolve(name, 50051)
    rpc, rpc_port = cluster.resolve(name, 8545)
    return f"http://{process.address}:{port}", f"http://{rpc.address}:{rpc_port}"


def use(cluster):
    """A payment, the same over JSON-RPC, and a load that crosses shards."""
    target, rpc = gateway_of(cluster)
    overview = json.loads(cluster.run("cluster", "--target", target, "--json"))
    if not all(shard["reachable"] for shard in overview["shards"]):
        raise Failed(f"not all shards are reached: {overview}")
    send = ["tx", "send", "--target", target, "--to", PAYEE, "--value", "1ether", "--json"]
    receipt = json.loads(cluster.run(*send))
    request = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBalance", "params": [PAYEE, "latest"]}
    body = json.dumps(request).encode()
    post = urllib.request.Request(rpc, body, {"Content-Type": "application/json"})

    def arrived():
        with urllib.request.urlopen(post, timeout=5) as reply:
            return int(json.load(reply)["result"], 16) == 10**18

    until("the payment shows in JSON-RPC", arrived)
    load = ["load", "--target", target, "--workload", "erc20", "--cross", "50", "--accounts", "20"]
    load += ["--rate", "50", "--duration", "2s", "--warmup", "0s", "--json"]
    return receipt["hash"], finished(cluster.run(*load))


def reflects(cluster):
    """Tools without proto files at hand find the service by either version of reflection."""
    target = gateway_of(cluster)[0].removeprefix("http://")
    with grpc.insecure_channel(target) as channel:
        for version in ("v1", "v1alpha"):
            ask = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            # ServerReflectionRequest { list_services: "" }
            listed = b"".join(ask(iter([b"\x3a\x00"]), timeout=10))
            if b"atoll.v1.LedgerService" not in listed:
                raise Failed(f"reflection {version} does not list the service")


def finished(text):
    summary = json.loads(text)
    if summary["failures"] or not summary["final"]:
        raise Failed(f"not everything became final: {text}")
    return summary["final"]


def jobs(cluster):
    for job in cluster.jobs():
        job.arguments = [
            f"{a.split('=')[0]}={SHORT[a.split('=')[0]]}" if a.split("=")[0] in SHORT else a for a in job.arguments
        ]
        cluster.start(job)
        if cluster.ended(job) != 0:
            raise Failed(f"{job.name} failed:\n{last_lines(job)}")
        yield job.name, finished(last_lines(job, 1))


def can_check(atoll):
    """Whether the binary has `config check`."""
    return subprocess.run([atoll, "config", "check", "--help"], capture_output=True).returncode == 0


def metrics(cluster):
    """Who is told to serve metrics does."""
    for process in cluster.services():
        told = " ".join(value for name, value in process.variables.items() if name.startswith("ATOLL__METRICS"))
        port = re.search(r":(\d+)", told)
        if port:
            with urllib.request.urlopen(f"http://{process.address}:{port[1]}/metrics", timeout=5) as reply:
                if b"# TYPE" not in reply.read():
                    raise Failed(f"{process.name} serves no metrics")
            yield process.name


def edges(documents, cluster):
    """Every connection is one that the policies allow."""
    seen = cluster.connections()
    for source, target, port in sorted(seen):
        source, target = cluster.by_name(source), cluster.by_name(target)
        if not manifests.allowed(documents, source.pod, target.pod, port):
            raise Failed(f"no network policy lets {source.name} reach port {port} of {target.name}")
    return {(cluster.by_name(a).component, cluster.by_name(b).component) for a, b, _ in seen}


def unused(documents, cluster, seen):
    """Edges between components that policies allow and nobody has used."""
    every = {(a.component, b.component): (a, b) for a in cluster.services() for b in cluster.services() if a is not b}
    for names, (a, b) in sorted(every.items()):
        ports = [port for port in b.ports if manifests.allowed(documents, a.pod, b.pod, port)]
        internal = [port for port in ports if b.pod.port("grpc") == port]
        if internal and names not in seen:
            yield f"{names[0]} to {names[1]}"


def check(path, atoll):
    with tempfile.TemporaryDirectory(prefix="atoll-deploy-") as directory:
        documents, cluster = opened(path, atoll, directory)
        more = funded(cluster)
        try:
            if can_check(atoll):
                for process in cluster.services():
                    cluster.check(process, more)
            for process in cluster.services():
                cluster.start(process, more if process.arguments[0] == "node" else ())
            for process in cluster.services():
                cluster.is_up(process)
            for process in cluster.services():
                cluster.listens(process)
            sent, finals = use(cluster)
            reflects(cluster)
            served = len(list(metrics(cluster)))
            ran = [f"{name}: {count} final" for name, count in jobs(cluster)]
            notes = [f"{served} serve metrics"] * bool(served)
            if documents:
                seen = edges(documents, cluster)
                never = list(unused(documents, cluster, seen))
                notes += [f"{len(seen)} kinds of edges used"] + [f"allowed and not used: {', '.join(never)}"] * bool(never)
            order = ["gateway", "executor", "router", "mempool", "shard", "state", "beacon"]
            took = [cluster.stop(p) for p in sorted(cluster.services(), key=lambda p: order.index(p.component))]
        finally:
            cluster.kill()
        count = len(cluster.services())
        notes = [f"{finals} final", *ran, *notes, f"stopped within {max(took):.1f} s"]
        print(f"{path.name}: {count} processes, payment {sent[:10]}…, {'; '.join(notes)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--atoll", required=True, type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    for path in arguments.files:
        try:
            check(path, arguments.atoll)
        except (Failed, manifests.Unresolved, OSError) as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
