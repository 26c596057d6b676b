#!/usr/bin/env python3
"""The figures of docs/benchmarks.md: what crossing shards costs, each with its baseline.

Every measurement is one `atoll load` on a fresh cluster. Counters and processor time are read
before the load begins and after its last transaction is final (`atoll stats`, /proc), so setup is
left out and nothing under way is missed. The measurements take turns, so that a machine whose
speed drifts treats them alike, and a ratio is taken within one turn.

    bench/figures.py [--turns 3] [--duration 8s] [--figures abcde] [--binary target/release/atoll]

    a  CPU of the cluster for a cross-shard ERC-20 transfer, over that for a local one
    b  transactions a second with half of them crossing, over those with none
    c  swaps on one pool by traders of eight shards, over the same by traders of the pool's shard,
       for each second of executor-thread time; prediction apart
    d  latency at half the load of b
    e  CPU of the beacon, and bytes into it, for each transaction that it orders, at the load of b
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
# Share of crossing swaps, in percent, that makes each of eight shards trade alike.
EIGHT_ALIKE = "87.5"


def cpu_seconds(pid):
    """User and system time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


class Cluster:
    """A cluster in one process, on a data directory of its own."""

    def __init__(self, binary, shards):
        self.binary = binary
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

    def stats(self):
        """Counters of all services: sums over the shards, those of the beacon, and CPU."""
        command = [self.binary, "stats", "--target", self.target, "--json"]
        reply = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        shards, sums = reply["shards"], {}
        for kind in ("local", "groups", "predictions", "deliver", "fetch", "announce", "blocks"):
            for counter in shards[0][kind]:
                sums[f"{kind}.{counter}"] = sum(shard[kind][counter] for shard in shards)
        for counter in ("wrong", "late_asks", "intents", "escalated"):
            sums[counter] = sum(shard[counter] for shard in shards)
        for counter in ("blocks", "transactions", "groups", "aborts", "cpu_ns"):
            sums[f"beacon.{counter}"] = reply["beacon"][counter]
        sums["cpu_s"] = cpu_seconds(self.process.pid)
        return sums

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        self.home.cleanup()
        if code != 0:
            sys.exit(f"the cluster ended with code {code}")


def load(arguments, workload, cross, rate="max", shards=4):
    """One load on a fresh cluster, and what it cost."""
    cluster = Cluster(arguments.binary, shards)
    try:
        return load_on(cluster, arguments, workload, cross, rate)
    finally:
        cluster.stop()


def load_on(cluster, arguments, workload, cross, rate):
    command = [
        arguments.binary, "load", "--target", cluster.target, "--workload", workload,
        "--cross", str(cross), "--accounts", str(arguments.accounts), "--rate", str(rate),
        "--duration", arguments.duration, "--warmup", "0s", "--seed", "1", "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = None
    for line in process.stderr:
        if before is None and line.startswith("load:"):
            before = cluster.stats()
    output = process.stdout.read()
    if process.wait() != 0 or before is None:
        sys.exit(f"{workload} at {cross} % failed: {output}")
    summary = json.loads(output)
    after = cluster.stats()
    spent = {name: after[name] - before[name] for name in after}
    return figures_of(summary, spent)


def figures_of(summary, spent):
    finals = max(summary["final"], 1)
    ordered = max(spent["beacon.transactions"], 1)
    crossed = max(round(finals * summary["cross_share"]), 1)
    ways = [(kind, way) for kind in ("deliver", "fetch") for way in ("request", "reply")]
    plural = {"request": "requests", "reply": "replies"}
    ms = summary["latency_ms"]
    return {
        "tps": summary["tps"]["final"],
        "cpu_us": spent["cpu_s"] / finals * 1e6,
        "run_us": (spent["local.cpu_ns"] + spent["groups.cpu_ns"]) / finals / 1e3,
        "predict_us": spent["predictions.cpu_ns"] / finals / 1e3,
        "beacon_us": spent["beacon.cpu_ns"] / ordered / 1e3,
        "beacon_bytes": (spent["announce.request_bytes"] + spent["blocks.request_bytes"]) / ordered,
        "beacon_messages": (spent["announce.requests"] + spent["blocks.requests"]) / ordered,
        "shard_messages": sum(spent[f"{kind}.{plural[way]}"] for kind, way in ways) / crossed,
        "shard_bytes": sum(spent[f"{kind}.{way}_bytes"] for kind, way in ways) / crossed,
        "group": spent["groups.transactions"] / max(spent["groups.batches"], 1),
        "wrong": spent["wrong"],
        "aborts": spent["beacon.aborts"],
        "executed_p50": ms["local_executed"]["p50"],
        "executed_p99": ms["local_executed"]["p99"],
        "final_p50": ms["final"]["p50"],
        "final_p99": ms["final"]["p99"],
        "cross_p50": ms["cross_final"]["p50"],
        "cross_p99": ms["cross_final"]["p99"],
        "cross": summary["cross_share"],
        "failed": sum(summary["failures"].values()),
        "reasons": summary["failures"],
    }


def turn(arguments):
    """One of each measurement that the figures asked for need, by name."""
    wanted, results = set(arguments.figures), {}

    def measure(name, *what, **how):
        print(f"  {name}", file=sys.stderr)
        results[name] = load(arguments, *what, **how)
        return results[name]

    if wanted & set("ab"):
        measure("erc20 0 %", "erc20", 0)
    if wanted & set("bde"):
        half = measure("erc20 50 %", "erc20", 50)["tps"] / 2
    if "a" in wanted:
        measure("erc20 100 %", "erc20", 100)
    if "b" in wanted:
        measure("transfer 0 %", "transfer", 0)
        measure("transfer 50 %", "transfer", 50)
    if "d" in wanted:
        measure("erc20 50 %, half load", "erc20", 50, rate=max(int(half), 1))
    if "c" in wanted:
        measure("amm at home", "amm", 0, shards=8)
        measure("amm from 8 shards", "amm", EIGHT_ALIKE, shards=8)
    return results


# Letter, what, target, and how it follows from the measurements of a turn.
FIGURES = [
    ("a", "CPU of a crossing ERC-20 transfer / a local one", "≤ 2",
     lambda t: t["erc20 100 %"]["cpu_us"] / t["erc20 0 %"]["cpu_us"]),
    ("b", "TPS at 50 % crossing / at 0 %, ERC-20", "≥ 0.6",
     lambda t: t["erc20 50 %"]["tps"] / t["erc20 0 %"]["tps"]),
    ("b", "TPS at 50 % crossing / at 0 %, payments", "≥ 0.6",
     lambda t: t["transfer 50 %"]["tps"] / t["transfer 0 %"]["tps"]),
    ("c", "swaps per executor second: 8 shards / at home", "≥ 0.7",
     lambda t: t["amm at home"]["run_us"] / t["amm from 8 shards"]["run_us"]),
    ("c", "prediction besides, µs a swap", "",
     lambda t: t["amm from 8 shards"]["predict_us"]),
    ("d", "half load: local executed p50, ms", "≤ 10",
     lambda t: t["erc20 50 %, half load"]["executed_p50"]),
    ("d", "half load: crossing final p50, ms", "≤ 100",
     lambda t: t["erc20 50 %, half load"]["cross_p50"]),
    ("d", "half load: crossing final p99, ms", "≤ 250",
     lambda t: t["erc20 50 %, half load"]["cross_p99"]),
    ("e", "beacon CPU, µs a transaction ordered", "≤ 3",
     lambda t: t["erc20 50 %"]["beacon_us"]),
    ("e", "bytes into the beacon, a transaction ordered", "≤ 200",
     lambda t: t["erc20 50 %"]["beacon_bytes"]),
]
COLUMNS = [
    ("TPS", "tps", 0), ("CPU µs", "cpu_us", 0), ("run µs", "run_us", 1), ("predict µs", "predict_us", 1),
    ("messages", "shard_messages", 2), ("bytes", "shard_bytes", 0), ("a group", "group", 0),
    ("final p50 ms", "final_p50", 0), ("p99 ms", "final_p99", 0),
]


def spread(values, digits):
    show = lambda value: f"{value:,.{digits}f}"
    return f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))})"


def report(arguments, turns):
    print("| | figure | target | median (lowest–highest) |")
    print("| --- | --- | --- | --- |")
    for letter, what, target, figure in FIGURES:
        if letter in arguments.figures:
            values = [figure(turn) for turn in turns]
            digits = 0 if min(values) >= 100 else 1 if min(values) >= 10 else 2
            print(f"| {letter} | {what} | {target} | {spread(values, digits)} |")
    print()
    print("| load |", " | ".join(heading for heading, _, _ in COLUMNS), "| wrong | aborts | failed |")
    print("| --- |" + " --- |" * (len(COLUMNS) + 3))
    for name in turns[0]:
        runs = [turn[name] for turn in turns]
        cells = [spread([run[key] for run in runs], digits) for _, key, digits in COLUMNS]
        ends = [str(sum(run[key] for run in runs)) for key in ("wrong", "aborts", "failed")]
        print(f"| {name} |", " | ".join(cells + ends), "|")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--duration", default="8s")
    parser.add_argument("--accounts", type=int, default=10000)
    parser.add_argument("--figures", default="abcde")
    parser.add_argument("--binary", default="target/release/atoll")
    parser.add_argument("--json", action="store_true", help="print every measurement as JSON")
    arguments = parser.parse_args()
    turns = []
    for number in range(arguments.turns):
        print(f"turn {number + 1} of {arguments.turns}", file=sys.stderr)
        turns.append(turn(arguments))
    if arguments.json:
        print(json.dumps(turns))
    else:
        report(arguments, turns)


if __name__ == "__main__":
    main()
