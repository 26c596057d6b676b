"""Two shards stand in one process; one of them moves to a process of its own, with its directory.

    move.py --atoll BINARY

That is how a cluster grows that was begun with more shards than machines: docs/operating.md.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from processes import Failed, Process, Processes

FILE = """data = "/data"

[chain]
chain_id = 31337
shards = 2
genesis_time_ms = 1767225600000
development = true

[address]
beacon = "http://beacon:6000"

[[address.shard]]
id = 0
all = "http://first:6000"

[[address.shard]]
id = 1
all = "http://SECOND"

STANDS
"""
BOTH = '[[shard]]\nid = 0\nlisten = "0.0.0.0:6000"\n\n[[shard]]\nid = 1\nlisten = "0.0.0.0:6001"\n'
ALONE = '[[shard]]\nid = {}\nlisten = "0.0.0.0:6000"\n'


class Image:
    variables = {}


def process(name, stands, second):
    file = FILE.replace("SECOND", second).replace("STANDS", stands)
    arguments = ["node", "--config", "/config/node.toml"]
    return Process(name, name, arguments, {}, {"/data": None, "/config": {"node.toml": file}}, [6000])


def cluster(atoll, directory, shards, second):
    beacon = process("beacon", '[beacon]\nlisten = "0.0.0.0:6000"\n', second)
    gateway = process("gateway", '[gateway]\nlisten = "0.0.0.0:6000"\n', second)
    all_of_them = [beacon, *(process(name, stands, second) for name, stands in shards), gateway]
    by_name = {each.name: each for each in all_of_them}
    return Processes(atoll, directory, Image, all_of_them, lambda host, port: (by_name[host], port))


def use(running):
    """Funds accounts on both shards, and has them pay each other."""
    target = f"http://{running.by_name('gateway').address}:6000"
    load = ["load", "--target", target, "--cross", "50", "--accounts", "20", "--rate", "50", "--seed", "7"]
    summary = json.loads(running.run(*load, "--duration", "2s", "--warmup", "0s", "--json"))
    if summary["failures"] or not summary["final"]:
        raise Failed(f"not everything became final: {summary}")


def balances(running):
    target = f"http://{running.by_name('gateway').address}:6000"
    accounts = json.loads(running.run("account", "--target", target, "--json"))["accounts"]
    return [(each["address"], each["balance"], each["nonce"]) for each in accounts]


def lives(running, act):
    try:
        for each in running.services():
            running.start(each)
        for each in running.services():
            running.listens(each)
        result = act(running)
        for each in reversed(running.services()):
            running.stop(each)
        return result
    finally:
        running.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--atoll", required=True, type=lambda text: pathlib.Path(text).resolve())
    atoll = parser.parse_args().atoll
    with tempfile.TemporaryDirectory(prefix="atoll-move-") as directory:
        together = cluster(atoll, directory, [("first", BOTH)], "first:6001")
        before = lives(together, lambda running: (use(running), balances(running))[1])
        old, new = (pathlib.Path(directory) / name / "data" for name in ("first", "second"))
        new.mkdir(parents=True)
        (old / "shard-1").rename(new / "shard-1")
        shards = [("first", ALONE.format(0)), ("second", ALONE.format(1))]
        apart = cluster(atoll, directory, shards, "second:6000")
        after = lives(apart, lambda running: (balances(running), use(running))[0])
        if before != after:
            raise Failed(f"{before} became {after}")
    print("a shard has moved to a process of its own, with all that it had, and the cluster goes on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
