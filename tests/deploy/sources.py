"""Processes from what describes containers: rendered manifests, or the compose file with the Dockerfile."""

import base64
import json
import pathlib
import re

import yaml

import manifests
from authority import Authority
from processes import Process


class Image:
    """What the Dockerfile says of how the image is run."""

    def __init__(self, path):
        text = pathlib.Path(path).read_text().replace("\\\n", " ")
        final = text[text.rindex("\nFROM ") :]
        self.entrypoint = json.loads(re.search(r"^ENTRYPOINT (.*)$", final, re.M)[1])
        if pathlib.PurePath(self.entrypoint[0]).name != "atoll":
            raise ValueError(f"the image runs {self.entrypoint}")
        self.variables = {}
        for line in re.findall(r"^ENV (.*)$", final, re.M):
            self.variables.update(re.findall(r"(\w+)=(\S+)", line))

    def arguments(self, command):
        return self.entrypoint[1:] + list(command)


def is_ours(image):
    return re.split(r"[:@]", image)[0].split("/")[-1] == "atoll"


def from_kubernetes(documents, image):
    """The processes of rendered manifests that run Atoll, and who resolves names: to a process, or to None
    for what runs something else, and a port."""
    pods = manifests.pods(documents)
    ours = [pod for pod in pods if is_ours(pod.container["image"])]
    authority = Authority()
    processes = [kubernetes_process(documents, pod, image, authority) for pod in ours]
    by_name = {process.name: process for process in processes}

    def resolve(host, port):
        pod, number = manifests.resolve(documents, pods, host, port)
        return by_name.get(pod.name), number

    return processes, resolve


def kubernetes_process(documents, pod, image, authority):
    container = pod.container
    mounts = {}
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        mounts[mount["mountPath"]] = files_of(documents, volumes.get(mount["name"], {}), authority)
    ports = [port["containerPort"] for port in container.get("ports", [])]
    return Process(
        name=pod.name,
        component=pod.component,
        arguments=image.arguments(container.get("args", [])),
        variables=variables_of(documents, pod, container),
        mounts=mounts,
        ports=ports,
        probes={kind: probe for kind, probe in container.items() if kind.endswith("Probe")},
        grace=pod.spec.get("terminationGracePeriodSeconds", 30),
        is_job=pod.workload["kind"] == "Job",
        pod=pod,
    )


def files_of(documents, volume, authority):
    """The files of a ConfigMap or a Secret; None for a volume that a process writes."""
    if "configMap" in volume:
        return manifests.named(documents, "ConfigMap", volume["configMap"]["name"])["data"]
    if "secret" in volume:
        name = volume["secret"]["secretName"]
        issued = [c["spec"] for c in manifests.of_kind(documents, "Certificate") if c["spec"]["secretName"] == name]
        return authority.issue(issued[0]) if issued else secret(documents, name)
    return None


def secret(documents, name):
    data = manifests.named(documents, "Secret", name).get("data", {})
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def variables_of(documents, pod, container):
    variables = {}
    for source in container.get("envFrom", []):
        variables.update(secret(documents, source["secretRef"]["name"]))
    for variable in container.get("env", []):
        if "value" in variable:
            value = manifests.expand(variable["value"], variables)
        else:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
            value = pod.labels[label[1]] if label else field_of(documents, pod, path)
        variables[variable["name"]] = value
    return variables


def field_of(documents, pod, path):
    namespace = pod.workload["metadata"].get("namespace", "default")
    return {"metadata.name": pod.name, "metadata.namespace": namespace, "spec.nodeName": "node"}[path]


def compose_services(paths):
    """The services of compose files, later ones over earlier ones: enough of compose's rules for ours."""
    services = {}
    for path in paths:
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            before = services.setdefault(name, {})
            variables = {**before.get("environment", {}), **service.get("environment", {})}
            before.update(service)
            before["environment"] = variables
    return services


def from_compose(path, image):
    """The services of a compose file that run Atoll, and who resolves their names. A file that stands
    on top of compose.yaml is called compose.….yaml."""
    path = pathlib.Path(path)
    base = path.parent / "compose.yaml"
    services = compose_services([base] if path == base else [base, path])
    processes = []
    for name, service in services.items():
        if is_ours(service["image"]):
            processes.append(compose_process(path.parent, name, service, image))
    by_name = {process.name: process for process in processes}

    def resolve(host, port):
        if "cluster" not in services.get(host, {}).get("networks", []):
            raise manifests.Unresolved(f"{host} is not on the network of the cluster")
        return by_name.get(host), port

    return processes, resolve


def compose_process(directory, name, service, image):
    mounts, is_job = {}, "load" in service.get("profiles", [])
    for volume in service.get("volumes", []):
        source, target = volume.split(":")[:2]
        if source.startswith("."):
            folder = directory / source
            mounts[target] = {each.name: each.read_text() for each in folder.iterdir() if each.is_file()}
        else:
            mounts[target] = None
    variables = service.get("environment", {})
    return Process(
        name=name,
        component=re.sub(r"-\d+$", "", name),
        arguments=image.arguments(service["command"]),
        variables={key: str(value) for key, value in variables.items()},
        mounts=mounts,
        ports=[int(port.split(":")[-1]) for port in service.get("ports", [])],
        grace=int(service["stop_grace_period"].rstrip("s")),
        is_job=is_job,
        check=(service.get("healthcheck") or {}).get("test", [])[1:],
    )
