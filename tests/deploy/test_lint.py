"""That the lint finds what it is there for.

    MANIFESTS=FILE python -m unittest test_lint

FILE holds rendered manifests that are good; each case breaks a copy of them in one way.
"""

import copy
import os
import unittest

from lint import lint
from manifests import load, named


def shard(documents):
    return named(documents, "StatefulSet", "atoll-shard")


def pod(documents):
    return shard(documents)["spec"]["template"]["spec"]


def container(documents):
    return pod(documents)["containers"][0]


def node_file(documents, old, new):
    config = next(d for d in documents if d["kind"] == "ConfigMap" and "node.toml" in d["data"])
    assert old in config["data"]["node.toml"]
    config["data"]["node.toml"] = config["data"]["node.toml"].replace(old, new)


def policy(documents, name):
    return named(documents, "NetworkPolicy", name)["spec"]


CASES = {
    "is privileged": lambda d: container(d)["securityContext"].update(privileged=True),
    "may run as root": lambda d: pod(d)["securityContext"].pop("runAsNonRoot"),
    "runs as user 0": lambda d: pod(d)["securityContext"].update(runAsUser=0),
    "writes its root file system": lambda d: container(d)["securityContext"].pop("readOnlyRootFilesystem"),
    "has capabilities": lambda d: container(d)["securityContext"].update(capabilities={"add": ["NET_ADMIN"]}),
    "has a service account token": lambda d: pod(d).pop("automountServiceAccountToken"),
    "no limits of memory": lambda d: container(d)["resources"]["limits"].pop("memory"),
    "no readinessProbe": lambda d: container(d).pop("readinessProbe"),
    "livenessProbe: there is no port 6001": lambda d: container(d)["livenessProbe"]["grpc"].update(port=6001),
    "the version is not said": lambda d: container(d).update(image="atoll"),
    "no volume": lambda d: container(d)["volumeMounts"].append({"name": "more", "mountPath": "/more"}),
    "no ConfigMap": lambda d: pod(d)["volumes"][0]["configMap"].update(name="another"),
    "has no cluster.toml": lambda d: pod(d)["volumes"][0]["configMap"].update(
        items=[{"key": "cluster.toml", "path": "x"}]
    ),
    "before it is there": lambda d: container(d)["env"].reverse(),
    "does not select its own pods": lambda d: shard(d)["spec"]["selector"]["matchLabels"].update(more="x"),
    "no Service": lambda d: shard(d)["spec"].update(serviceName="atoll-shards"),
    "is not headless": lambda d: named(d, "Service", "atoll-shard")["spec"].pop("clusterIP"),
    "selects no pod": lambda d: named(d, "Service", "atoll-gateway")["spec"]["selector"].update(more="x"),
    "has no port web": lambda d: named(d, "Service", "atoll-gateway")["spec"]["ports"][0].update(targetPort="web"),
    "no PodDisruptionBudget": lambda d: d.remove(named(d, "PodDisruptionBudget", "atoll-shard")),
    "only gateways": lambda d: named(d, "HorizontalPodAutoscaler", "atoll-gateway")["spec"][
        "scaleTargetRef"
    ].update(kind="StatefulSet", name="atoll-shard"),
    "none denies": lambda d: d.remove(named(d, "NetworkPolicy", "atoll-default-deny")),
    "no pod has app.kubernetes.io/component=shards": lambda d: policy(d, "atoll-shard")["egress"][0]["to"][0][
        "podSelector"
    ]["matchExpressions"][0].update(values=["shards"]),
    "none of the pods has a port http": lambda d: policy(d, "atoll-shard")["ingress"][0]["ports"][0].update(
        port="http"
    ),
    "there is neither such": lambda d: node_file(d, "atoll-shard-1.atoll-shard", "atoll-shard-7.atoll-shard"),
    "has a name below": lambda d: node_file(d, "atoll-shard-1.atoll-shard", "atoll-shard-1.atoll"),
    "has no port 6001": lambda d: node_file(d, "atoll-beacon:6000", "atoll-beacon:6001"),
    "replicas, not": lambda d: shard(d)["spec"].update(replicas=3),
    "not one address a shard": lambda d: node_file(d, "shards = 2", "shards = 3"),
}


class LintFinds(unittest.TestCase):
    def test_each_mistake_is_found_and_nothing_else(self):
        good = load(os.environ["MANIFESTS"])
        self.assertEqual(lint(good), [])
        for finding, spoil in CASES.items():
            with self.subTest(finding):
                documents = copy.deepcopy(good)
                spoil(documents)
                found = lint(documents)
                self.assertTrue(any(finding in each for each in found), found)


if __name__ == "__main__":
    unittest.main()
