"""Makes the PrometheusRule of k8s/components/monitoring from deploy/prometheus: kustomize cannot.

    rules.py            writes it
    rules.py --check    says whether it is what it would write
"""

import pathlib
import sys

import yaml

ROOT = pathlib.Path(__file__).parent.parent.parent
SOURCES = [ROOT / "deploy" / "prometheus" / name for name in ("rules.yml", "alerts.yml")]
TARGET = ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"
HEAD = "# Made by tests/deploy/rules.py from deploy/prometheus: change it there.\n"


def made():
    groups = [group for source in SOURCES for group in yaml.safe_load(source.read_text())["groups"]]
    labels = {"app.kubernetes.io/name": "atoll", "app.kubernetes.io/part-of": "atoll"}
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "atoll", "labels": labels},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.safe_dump(rule, sort_keys=False, width=1000)


def main(arguments):
    if arguments == ["--check"]:
        if TARGET.read_text() != made():
            print(f"{TARGET.relative_to(ROOT)} is not what tests/deploy/rules.py makes: run it", file=sys.stderr)
            return 1
    else:
        TARGET.write_text(made())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
