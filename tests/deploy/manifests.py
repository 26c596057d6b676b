"""Rendered Kubernetes manifests: what is in them, and which pods they lead to."""

import dataclasses
import re

import yaml

WORKLOADS = ("StatefulSet", "Deployment", "DaemonSet", "Job")


def load(path):
    with open(path) as file:
        return [document for document in yaml.safe_load_all(file) if document]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def named(documents, kind, name):
    found = [d for d in of_kind(documents, kind) if d["metadata"]["name"] == name]
    return found[0] if found else None


def template(workload):
    return workload["spec"]["template"]


def matches(selector, labels):
    """Whether a label selector selects these labels. An empty one selects all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions") or []:
        value, operator = labels.get(rule["key"]), rule["operator"]
        wanted = {
            "In": value in rule.get("values", []),
            "NotIn": value not in rule.get("values", []),
            "Exists": rule["key"] in labels,
            "DoesNotExist": rule["key"] not in labels,
        }
        if not wanted[operator]:
            return False
    return True


def container_port(container, port):
    """The number of a port, which may be a name, or None if the container has none such."""
    for each in container.get("ports", []):
        if port in (each["containerPort"], each.get("name")):
            return each["containerPort"]
    return None


@dataclasses.dataclass
class Pod:
    name: str
    workload: dict
    labels: dict
    spec: dict

    @property
    def container(self):
        return self.spec["containers"][0]

    @property
    def component(self):
        return self.labels.get("app.kubernetes.io/component", "")

    def port(self, port):
        for container in self.spec["containers"]:
            found = container_port(container, port)
            if found:
                return found
        return None


def replicas(documents, workload):
    """How many pods there are at first: those that an autoscaler begins with, if there is one."""
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == (workload["kind"], workload["metadata"]["name"]):
            return scaler["spec"]["minReplicas"]
    return workload["spec"].get("replicas", 1)


def pods(documents):
    made = []
    for workload in of_kind(documents, *WORKLOADS):
        for index in range(replicas(documents, workload)):
            labels = dict(template(workload)["metadata"].get("labels", {}))
            name = f"{workload['metadata']['name']}-{index}"
            if workload["kind"] == "StatefulSet":
                labels["apps.kubernetes.io/pod-index"] = str(index)
                labels["statefulset.kubernetes.io/pod-name"] = name
            made.append(Pod(name, workload, labels, template(workload)["spec"]))
    return made


class Unresolved(Exception):
    pass


def resolve(documents, all_pods, host, port):
    """The pod that a name leads to, as the cluster's names do, and the number of its port."""
    parts = host.split(".")
    service = named(documents, "Service", parts[0])
    if service:
        spec = service["spec"]
        chosen = [pod for pod in all_pods if matches({"matchLabels": spec["selector"]}, pod.labels)]
        if not chosen:
            raise Unresolved(f"{host}: the service selects no pod")
        if spec.get("clusterIP") == "None":
            target = port
        else:
            ports = [each for each in spec["ports"] if each["port"] == port]
            if not ports:
                raise Unresolved(f"{host}:{port}: the service has no such port")
            target = ports[0].get("targetPort", port)
        pod = chosen[0]
    else:
        pod = next((pod for pod in all_pods if pod.name == parts[0]), None)
        if pod is None:
            raise Unresolved(f"{host}: there is neither such a service nor such a pod")
        governing = pod.workload["spec"].get("serviceName")
        if len(parts) < 2 or parts[1] != governing:
            raise Unresolved(f"{host}: {pod.name} has a name below {governing} only")
        target = port
    number = pod.port(target)
    if number is None:
        raise Unresolved(f"{host}:{port}: {pod.name} has no port {target}")
    return pod, number


def allowed(documents, source, target, port):
    """Whether network policies let one pod reach a port of another."""
    policies = of_kind(documents, "NetworkPolicy")

    def says(pod, other, way, peers):
        applying = [
            policy["spec"]
            for policy in policies
            if way in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], pod.labels)
        ]
        rules = [rule for spec in applying for rule in spec.get(way.lower()) or []]
        return not applying or any(admits(rule, other, peers, target, port) for rule in rules)

    return says(source, target, "Egress", "to") and says(target, source, "Ingress", "from")


def admits(rule, other, peers, target, port):
    if "ports" in rule and not any(target.port(each["port"]) == port for each in rule["ports"]):
        return False
    return peers not in rule or any(
        "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], other.labels)
        for peer in rule[peers]
    )


def expand(text, variables):
    """`$(NAME)`, as the kubelet does."""
    return re.sub(r"\$\(([A-Za-z_0-9]+)\)", lambda m: variables.get(m[1], m[0]), text)
