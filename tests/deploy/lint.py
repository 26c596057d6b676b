"""A lint of rendered manifests: what the schemas do not say.

    lint.py FILE...

Prints what is wrong with each file, and ends with 1 if something is.
"""

import re
import sys
import tomllib

from manifests import (
    WORKLOADS,
    Unresolved,
    container_port,
    load,
    matches,
    name_of,
    named,
    of_kind,
    pods,
    replicas,
    resolve,
    template,
)

STANDARD_LABELS = [f"app.kubernetes.io/{key}" for key in ("name", "part-of", "component")]
SHARDS = ("shard", "mempool", "executor", "state", "router")


def addresses(node):
    entries = node["address"]["shard"]
    return [node["address"]["beacon"]] + [url for entry in entries for key, url in entry.items() if key != "id"]


class Lint:
    def __init__(self, documents):
        self.documents = documents
        self.pods = pods(documents)
        self.findings = []

    def expect(self, good, where, what):
        if not good:
            self.findings.append(f"{where}: {what}")

    def run(self):
        for workload in of_kind(self.documents, *WORKLOADS):
            self.workload(workload)
        for service in of_kind(self.documents, "Service"):
            self.service(service)
        for budget in of_kind(self.documents, "PodDisruptionBudget"):
            self.expect(self.selected(budget["spec"]["selector"]), name_of(budget), "selects no pod")
        for scaler in of_kind(self.documents, "HorizontalPodAutoscaler"):
            self.scaler(scaler)
        for monitor in of_kind(self.documents, "ServiceMonitor"):
            self.monitor(monitor)
        for namespace in of_kind(self.documents, "Namespace"):
            level = namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
            self.expect(level == "restricted", name_of(namespace), "pod security is not `restricted`")
        self.policies()
        self.configuration()
        return self.findings

    def selected(self, selector):
        return [pod for pod in self.pods if matches(selector, pod.labels)]

    def workload(self, workload):
        where, spec = name_of(workload), template(workload)["spec"]
        labels = template(workload)["metadata"].get("labels", {})
        for label in STANDARD_LABELS:
            self.expect(label in labels, where, f"no label {label}")
        if workload["kind"] != "Job":
            self.expect(matches(workload["spec"]["selector"], labels), where, "does not select its own pods")
            budgets = of_kind(self.documents, "PodDisruptionBudget")
            covered = any(matches(budget["spec"]["selector"], labels) for budget in budgets)
            self.expect(covered, where, "no PodDisruptionBudget")
        if workload["kind"] == "StatefulSet":
            self.identities(workload, labels)
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            self.expect(not spec.get(key), where, f"{key} is on")
        self.expect(spec.get("automountServiceAccountToken") is False, where, "has a service account token")
        security = spec.get("securityContext", {})
        self.expect(security.get("runAsNonRoot") is True, where, "may run as root")
        self.expect(security.get("runAsUser", 0) != 0, where, "runs as user 0")
        profile = security.get("seccompProfile", {}).get("type")
        self.expect(profile == "RuntimeDefault", where, "no seccomp profile")
        account = spec.get("serviceAccountName")
        self.expect(named(self.documents, "ServiceAccount", account), where, f"no ServiceAccount {account}")
        priority = spec.get("priorityClassName")
        if priority:
            self.expect(named(self.documents, "PriorityClass", priority), where, f"no PriorityClass {priority}")
        self.volumes(workload, spec)
        for container in spec["containers"] + spec.get("initContainers", []):
            self.container(workload, spec, container)

    def identities(self, workload, labels):
        where, service = name_of(workload), workload["spec"]["serviceName"]
        found = named(self.documents, "Service", service)
        self.expect(found, where, f"no Service {service}")
        if found:
            spec = found["spec"]
            self.expect(spec.get("clusterIP") == "None", where, f"{service} is not headless")
            self.expect(spec.get("publishNotReadyAddresses"), where, f"{service} hides pods that start")
            self.expect(matches({"matchLabels": spec["selector"]}, labels), where, f"{service} is not its own")

    def container(self, workload, spec, container):
        where = f"{name_of(workload)}, container {container['name']}"
        security = container.get("securityContext", {})
        self.expect(not security.get("privileged"), where, "is privileged")
        self.expect(security.get("allowPrivilegeEscalation") is False, where, "may get privileges")
        self.expect(security.get("readOnlyRootFilesystem") is True, where, "writes its root file system")
        self.expect(security.get("capabilities") == {"drop": ["ALL"]}, where, "has capabilities")
        self.expect(security.get("runAsUser", 1) != 0, where, "runs as user 0")
        image = container["image"]
        tagged = re.search(r"@sha256:[0-9a-f]{64}$|:[\w.-]+$", image)
        self.expect(tagged and not image.endswith(":latest"), where, f"{image}: the version is not said")
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                self.expect(resource in resources.get(kind, {}), where, f"no {kind} of {resource}")
        if workload["kind"] != "Job":
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                self.probe(where, container, probe)
        self.environment(where, container)
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace = spec.get("terminationGracePeriodSeconds", 30)
        self.expect(sleep + 10 <= grace, where, "preStop leaves under 10 s of the grace period")

    def probe(self, where, container, kind):
        probe = container.get(kind)
        self.expect(probe, where, f"no {kind}")
        for way in ("grpc", "httpGet", "tcpSocket"):
            if probe and way in probe:
                port = probe[way]["port"]
                self.expect(container_port(container, port), where, f"{kind}: there is no port {port}")

    def environment(self, where, container):
        known = set()
        for variable in container.get("env", []):
            for used in re.findall(r"\$\(([A-Za-z_0-9]+)\)", variable.get("value") or ""):
                self.expect(used in known, where, f"{variable['name']} uses {used} before it is there")
            known.add(variable["name"])
            source = variable.get("valueFrom", {})
            for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if key in source:
                    self.has_keys(where, kind, source[key]["name"], [source[key]["key"]])
        for source in container.get("envFrom", []):
            for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if key in source:
                    self.has_keys(where, kind, source[key]["name"], [])

    def volumes(self, workload, spec):
        where = name_of(workload)
        claims = workload["spec"].get("volumeClaimTemplates", [])
        there = {each["metadata"]["name"] for each in claims}
        for volume in spec.get("volumes", []):
            there.add(volume["name"])
            self.expect("hostPath" not in volume, where, f"volume {volume['name']} is the host's")
            sources = volume.get("projected", {}).get("sources", [volume])
            for source in sources:
                for kind, key, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
                    if key in source:
                        keys = [item["key"] for item in source[key].get("items", [])]
                        found = source[key].get(name) or source[key].get("name")
                        self.has_keys(where, kind, found, keys)
        containers = spec["containers"] + spec.get("initContainers", [])
        used = {mount["name"] for c in containers for mount in c.get("volumeMounts", [])}
        self.expect(used <= there, where, f"no volume {', '.join(used - there)}")
        self.expect(there <= used, where, f"nobody mounts {', '.join(there - used)}")

    def has_keys(self, where, kind, name, keys):
        found = named(self.documents, kind, name)
        if kind == "Secret":
            issued = of_kind(self.documents, "Certificate")
            if any(certificate["spec"]["secretName"] == name for certificate in issued):
                found = {"data": dict.fromkeys(["tls.crt", "tls.key", "ca.crt"])}
        self.expect(found, where, f"no {kind} {name}")
        if found:
            there = set(found.get("data") or {}) | set(found.get("stringData") or {})
            for key in keys:
                self.expect(key in there, where, f"{kind} {name} has no {key}")

    def service(self, service):
        where, spec = name_of(service), service["spec"]
        chosen = self.selected({"matchLabels": spec.get("selector") or {"": ""}})
        self.expect(chosen, where, "selects no pod")
        for port in spec["ports"]:
            self.expect("appProtocol" in port, where, f"port {port['port']} has no appProtocol")
            target = port.get("targetPort", port["port"])
            for pod in chosen:
                self.expect(pod.port(target), where, f"{pod.name} has no port {target}")
            if spec.get("clusterIP") == "None":
                same = all(pod.port(target) == port["port"] for pod in chosen)
                self.expect(same, where, f"headless, and port {port['port']} is another one in the pods")

    def scaler(self, scaler):
        where, target = name_of(scaler), scaler["spec"]["scaleTargetRef"]
        found = named(self.documents, target["kind"], target["name"])
        self.expect(found, where, f"no {target['kind']} {target['name']}")
        if found:
            component = template(found)["metadata"]["labels"]["app.kubernetes.io/component"]
            self.expect(component == "gateway", where, "only gateways may come and go")
            self.expect("replicas" not in found["spec"], where, f"{target['name']} says `replicas` itself")

    def monitor(self, monitor):
        where, spec = name_of(monitor), monitor["spec"]
        services = [
            service
            for service in of_kind(self.documents, "Service")
            if matches(spec["selector"], service["metadata"].get("labels", {}))
        ]
        self.expect(services, where, "selects no Service")
        for endpoint in spec["endpoints"]:
            port = endpoint["port"]
            has = any(each.get("name") == port for s in services for each in s["spec"]["ports"])
            self.expect(has, where, f"no Service has a port {port}")

    def policies(self):
        policies = of_kind(self.documents, "NetworkPolicy")
        nothing = [
            policy
            for policy in policies
            if policy["spec"]["podSelector"] == {}
            and sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
            and not policy["spec"].get("ingress")
            and not policy["spec"].get("egress")
        ]
        self.expect(nothing, "NetworkPolicy", "none denies what the others do not allow")
        for policy in policies:
            where, spec = name_of(policy), policy["spec"]
            chosen = self.selected(spec["podSelector"])
            self.expect(chosen, where, "selects no pod")
            for way, peers in (("ingress", "from"), ("egress", "to")):
                for rule in spec.get(way) or []:
                    self.rule(where, rule, peers, chosen)

    def rule(self, where, rule, peers, chosen):
        others, elsewhere = [], False
        for peer in rule.get(peers, []):
            if "namespaceSelector" in peer or "ipBlock" in peer:
                elsewhere = True
                continue
            # Each value by itself: one that nobody has is a mistake too.
            for expression in peer["podSelector"].get("matchExpressions", []):
                for value in expression.get("values", []):
                    one = {"matchExpressions": [{**expression, "values": [value]}]}
                    self.expect(self.selected(one), where, f"no pod has {expression['key']}={value}")
            others += self.selected(peer["podSelector"])
        targets = chosen if peers == "from" else others
        for port in rule.get("ports", []):
            if peers == "from" or not elsewhere:
                has = any(pod.port(port["port"]) for pod in targets)
                self.expect(has, where, f"none of the pods has a port {port['port']}")

    def configuration(self):
        """The files that the processes read: their addresses lead somewhere, and the shards are as many."""
        for config in of_kind(self.documents, "ConfigMap"):
            for key, text in config.get("data", {}).items():
                if key == "node.toml":
                    self.node_file(f"{name_of(config)}, {key}", tomllib.loads(text))

    def identities_of(self, where, node):
        """With certificates: those of this chain, for every shard."""
        chain, shards = node["chain"]["chain_id"], set()
        certificates = of_kind(self.documents, "Certificate")
        uris = [uri for certificate in certificates for uri in certificate["spec"].get("uris", [])]
        for uri in uris:
            parts = uri.removeprefix("spiffe://atoll/").split("/")
            self.expect(parts[0] == str(chain), where, f"{uri} is not of chain {chain}")
            if parts[1] == "shard":
                shards.add(int(parts[2]))
        if uris:
            missing = set(range(node["chain"]["shards"])) - shards
            self.expect(not missing, where, f"no certificate is for shard {missing}")
            plain = [url for url in addresses(node) if not url.startswith("https://")]
            self.expect(not plain, where, f"there are certificates, and {plain} have no https")

    def node_file(self, where, node):
        shards, entries = node["chain"]["shards"], node["address"]["shard"]
        self.identities_of(where, node)
        for url in addresses(node):
            host, port = re.fullmatch(r"https?://([^:/]+):(\d+)", url).groups()
            try:
                resolve(self.documents, self.pods, host, int(port))
            except Unresolved as error:
                self.expect(False, where, str(error))
        self.expect([e["id"] for e in entries] == list(range(shards)), where, "not one address a shard")
        for workload in of_kind(self.documents, "StatefulSet"):
            component = template(workload)["metadata"]["labels"]["app.kubernetes.io/component"]
            count = replicas(self.documents, workload)
            wanted = shards if component in SHARDS else 1
            self.expect(count == wanted, name_of(workload), f"{count} replicas, not {wanted}")


def lint(documents):
    return Lint(documents).run()


def main(paths):
    bad = 0
    for path in paths:
        for finding in lint(load(path)):
            print(f"{path}: {finding}")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
