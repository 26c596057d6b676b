"""Prints those documents of a file whose kinds are Kubernetes's own: the others have no schema at hand."""

import sys

import yaml

from manifests import load

if __name__ == "__main__":
    documents = load(sys.argv[1])
    groups = ("monitoring.coreos.com", "cert-manager.io")
    known = [d for d in documents if not d["apiVersion"].startswith(groups)]
    yaml.safe_dump_all(known, sys.stdout)
