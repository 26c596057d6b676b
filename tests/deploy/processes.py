"""What a container would run, as plain processes on loopback: each with an address of its own in
127.0.0.0/8 and the ports that it has in the manifests. Addresses and mount paths are rewritten; commands,
arguments, variables and files are otherwise those of the containers."""

import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import grpc

DEADLINE = 90


class Failed(Exception):
    pass


@dataclasses.dataclass
class Process:
    """What one container runs. `mounts`: path in the container → files by name, or None for a volume."""

    name: str
    component: str
    arguments: list
    variables: dict
    mounts: dict
    ports: list
    probes: dict = dataclasses.field(default_factory=dict)
    grace: int = 30
    is_job: bool = False
    # A command that says whether it is healthy.
    check: list = dataclasses.field(default_factory=list)
    pod: object = None
    address: str = ""
    child: object = None
    log: object = None


def until(what, look, deadline=DEADLINE):
    """Waits until `look` returns something."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise Failed(f"{what}: not within {deadline} s")


def health(target, service, timeout=2):
    """Whether a gRPC health check says that a service is serving."""
    name = service.encode()
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    with grpc.insecure_channel(target) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return check(request, timeout=timeout) == b"\x08\x01"
        except grpc.RpcError:
            return False


class Processes:
    """`resolve(host, port)` gives the process that a name leads to, and its port."""

    def __init__(self, atoll, directory, image, processes, resolve):
        self.atoll, self.image, self.resolve = str(atoll), image, resolve
        self.directory = pathlib.Path(directory)
        self.all = processes
        for index, process in enumerate(processes):
            process.address = f"127.77.{os.getpid() % 250}.{index + 1}"

    def services(self):
        return [process for process in self.all if not process.is_job]

    def jobs(self):
        return [process for process in self.all if process.is_job]

    def by_name(self, name):
        return next(process for process in self.all if process.name == name)

    def directory_of(self, process, path):
        return self.directory / process.name / path.strip("/").replace("/", "-")

    def rewrite(self, process, text, addresses=True):
        def url(match):
            other, port = self.resolve(match[2], int(match[3]))
            # What is not Atoll does not run here.
            return f"{match[1]}://{other.address if other else '127.0.0.1'}:{port}"

        if addresses:
            text = re.sub(r"\b(https?)://([a-z][\w.-]*):(\d+)", url, text)
            text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1):", f"{process.address}:", text)
        for path in sorted(process.mounts, key=len, reverse=True):
            text = re.sub(rf"{path}(?=[/\"',\s]|$)", str(self.directory_of(process, path)), text)
        return text

    def prepare(self, process, addresses=True):
        (self.directory / process.name).mkdir(exist_ok=True)
        for path, files in process.mounts.items():
            directory = self.directory_of(process, path)
            directory.mkdir(parents=True, exist_ok=True)
            for name, text in (files or {}).items():
                (directory / name).write_text(self.rewrite(process, text, addresses))

    def start(self, process, more=()):
        """Starts it; `more` is added to its arguments."""
        self.prepare(process)
        home = self.directory / process.name
        arguments = [self.rewrite(process, argument) for argument in process.arguments]
        process.log = home / "log"
        with open(process.log, "ab") as log:
            process.child = subprocess.Popen(
                [self.atoll, *arguments, *more],
                env=self.variables(process),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def variables(self, process, addresses=True):
        variables = {"PATH": os.environ["PATH"], **self.image.variables, **process.variables}
        variables = {name: self.rewrite(process, value, addresses) for name, value in variables.items()}
        return {**variables, "ATOLL_HOME": str(self.directory / process.name / "home")}

    def check(self, process, more):
        """What the binary says of the configuration with the addresses that it has in the cluster: some are fine
        on loopback only."""
        self.prepare(process, addresses=False)
        arguments = [self.rewrite(process, argument, addresses=False) for argument in process.arguments]
        file = arguments[arguments.index("--config") + 1]
        line = [self.atoll, "config", "check", file, *more]
        done = subprocess.run(line, env=self.variables(process, addresses=False), capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{process.name}: {done.stderr}")

    def is_running(self, process):
        code = process.child.poll()
        if code is not None:
            raise Failed(f"{process.name} has ended with {code}:\n{last_lines(process)}")
        return True

    def probe(self, process, kind):
        """One look of the kubelet's."""
        probe = process.probes.get(kind)
        if probe is None:
            return True
        return health(f"{process.address}:{probe['grpc']['port']}", probe["grpc"].get("service", ""))

    def is_up(self, process):
        """Waits until the probes are content, in the kubelet's order, or the health check is."""
        if process.check:
            until(f"{process.name}: health check", lambda: self.is_running(process) and self.is_healthy(process))
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            until(
                f"{process.name}: {kind}",
                lambda kind=kind: self.is_running(process) and self.probe(process, kind),
            )

    def is_healthy(self, process):
        try:
            self.run(*[self.rewrite(process, argument) for argument in process.check[1:]])
        except Failed:
            return False
        return True

    def listens(self, process):
        """Waits until its ports are open: what has no probes says so by them."""

        def opens(port):
            self.is_running(process)
            with socket.socket() as client:
                return client.connect_ex((process.address, port)) == 0

        for port in process.ports:
            until(f"{process.name} listens on {port}", lambda port=port: opens(port))

    def ended(self, process):
        """Waits for its end; its exit code."""
        return until(f"{process.name} ends", lambda: process.child.poll() is not None and [process.child.poll()])[0]

    def stop(self, process):
        """SIGTERM; it has to end with 0 within its grace period."""
        process.child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = self.ended(process)
        took = time.monotonic() - began
        if code != 0 or took > process.grace:
            raise Failed(f"{process.name} ended with {code} after {took:.1f} s:\n{last_lines(process)}")
        process.child = None
        return took

    def kill(self):
        for process in self.all:
            if process.child is not None and process.child.poll() is None:
                process.child.kill()
                process.child.wait()

    def run(self, *arguments, timeout=DEADLINE, **variables):
        """A command of a user's, with this binary."""
        environment = {"PATH": os.environ["PATH"], "ATOLL_HOME": str(self.directory / "home"), **variables}
        done = subprocess.run(
            [self.atoll, *arguments], env=environment, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode != 0:
            raise Failed(f"atoll {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def connections(self):
        """Which process is connected to which port of which: (from, to, port)."""
        listeners = {(process.address, port): process for process in self.services() for port in process.ports}
        found = set()
        for process in self.services():
            for address, port in peers(process.child.pid):
                other = listeners.get((address, port))
                if other is not None:
                    found.add((process.name, other.name, port))
        return found


def last_lines(process, count=15):
    return "\n".join(process.log.read_text().splitlines()[-count:])


def peers(pid):
    """Addresses that a process has established connections to."""
    sockets = set()
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
        except OSError:
            continue
        if match:
            sockets.add(match[1])
    for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and fields[9] in sockets:
            address, port = fields[2].split(":")
            octets = [str(int(address[i : i + 2], 16)) for i in (6, 4, 2, 0)]
            yield ".".join(octets), int(port, 16)
