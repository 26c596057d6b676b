#!/usr/bin/env python3
"""Throughput and CPU per transaction of a cluster of four shards, per workload.

Starts a fresh cluster for each measurement, puts `atoll load --rate max` on it, and reads the CPU
time of the cluster's process from /proc before and after (the load generator is another process).
The workloads take turns, so that a machine whose speed drifts treats them alike.

    bench/figures.py [--runs 3] [--duration 10s] [--binary target/release/atoll]
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

WORKLOADS = [
    ("transfer", 0),
    ("transfer", 50),
    ("erc20", 0),
    ("erc20", 50),
]
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    return 0


class Cluster:
    """A cluster in one process, on a data directory of its own."""

    def __init__(self, binary, shards):
        self.home = tempfile.TemporaryDirectory(prefix="atoll-bench-")
        data = os.path.join(self.home.name, "data")
        command = [binary, "up", "--shards", str(shards), "--data", data, "--listen", "127.0.0.1:0"]
        environment = dict(os.environ, ATOLL_HOME=self.home.name)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.target = None
        for line in self.process.stdout:
            if "http://" in line:
                self.target = line.split()[1]
            if "Ctrl-C" in line:
                break
        if self.target is None:
            sys.exit("the cluster did not start")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        self.home.cleanup()
        if code != 0:
            sys.exit(f"the cluster ended with code {code}")


def measure(arguments, workload, cross):
    """One run: throughput, latency, and CPU over the whole load with its setup left out."""
    cluster = Cluster(arguments.binary, arguments.shards)
    load = [
        arguments.binary, "load", "--target", cluster.target, "--workload", workload,
        "--cross", str(cross), "--accounts", str(arguments.accounts), "--rate", "max",
        "--duration", arguments.duration, "--warmup", "0s", "--seed", "1", "--json",
    ]
    process = subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = None
    for line in process.stderr:
        if before is None and line.startswith("load:"):
            before = cpu_seconds(cluster.process.pid)
    output = process.stdout.read()
    process.wait()
    time_used = cpu_seconds(cluster.process.pid) - (before or 0)
    memory = resident_mb(cluster.process.pid)
    cluster.stop()
    if process.returncode != 0:
        sys.exit(f"{workload} at {cross} % failed: {output}")
    summary = json.loads(output)
    return {
        "tps": summary["tps"]["final"],
        "cpu_us": time_used / max(summary["final"], 1) * 1e6,
        "p50_ms": summary["latency_ms"]["final"]["p50"],
        "p99_ms": summary["latency_ms"]["final"]["p99"],
        "cross": summary["cross_share"],
        "failures": sum(summary["failures"].values()),
        "reasons": summary["failures"],
        "memory_mb": memory,
    }


def spread(values):
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--duration", default="10s")
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--binary", default="target/release/atoll")
    parser.add_argument("--json", action="store_true", help="print every run as JSON")
    arguments = parser.parse_args()
    results = {workload: [] for workload in WORKLOADS}
    for run in range(arguments.runs):
        for workload in WORKLOADS:
            print(f"run {run + 1} of {arguments.runs}: {workload}", file=sys.stderr)
            results[workload].append(measure(arguments, *workload))
            time.sleep(1)
    if arguments.json:
        print(json.dumps([{"workload": w, "cross": c, "runs": r} for (w, c), r in results.items()]))
        return
    print("| workload | crossing | TPS | CPU µs a transaction | final p50 ms | p99 ms | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (workload, cross), runs in results.items():
        column = lambda name: [run[name] for run in runs]
        print(
            f"| {workload} | {cross} % | {spread(column('tps'))} | {spread(column('cpu_us'))} "
            f"| {spread(column('p50_ms'))} | {spread(column('p99_ms'))} "
            f"| {sum(column('failures'))} |"
        )


if __name__ == "__main__":
    main()
