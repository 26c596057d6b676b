"""Restarts every process of a cluster under load, one at a time, as a rolling update does, and measures it.

    pip install -r deploy/load/requirements.txt -r tests/deploy/requirements.txt
    rolling.py --atoll BINARY [--rate 500] [--workload mix] FILE

FILE is rendered manifests with two gateways, such as k8s/base. For each process: `atoll load` runs for some
seconds; in the middle of them the process gets SIGTERM, and is started again when it has ended; its readiness
probe has to become content. Receipts are watched through a gateway that stays. In the end every receipt that
anybody was told of has to hold.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import grpc

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "deploy" / "load"))

from ledger import Ledger  # noqa: E402
from processes import Failed, until  # noqa: E402
from run import funded, opened  # noqa: E402

FINAL = 3
BEFORE, AFTER = 4, 8


class Watcher(threading.Thread):
    """Every receipt, with when it came; the stream is opened again when it breaks."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.ledger, self.told, self.times = Ledger(target), {}, []
        self.start()

    def run(self):
        while True:
            try:
                for reply in self.ledger.watch(compact=True):
                    now = time.monotonic()
                    for receipt in reply.receipts:
                        self.times.append(now)
                        # "It is final now" comes without content.
                        status = receipt.status if receipt.kind else None
                        known = self.told.setdefault(receipt.hash, status)
                        if known is None:
                            self.told[receipt.hash] = status
            except grpc.RpcError:
                time.sleep(0.05)

    def longest_pause(self, begin, end):
        times = [begin] + [t for t in list(self.times) if begin <= t <= end] + [end]
        return max(b - a for a, b in zip(times, times[1:]))


def load(cluster, target, arguments):
    line = [cluster.atoll, "load", "--target", target, "--workload", arguments.workload, "--rate", arguments.rate]
    line += ["--cross", "25", "--accounts", "200", "--warmup", "0s", "--duration", f"{BEFORE + AFTER}s", "--json"]
    return subprocess.Popen(line + ["--drain", "60s"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(process):
    """Waits until the load has set itself up and sends."""
    for line in process.stderr:
        if line.startswith("load:"):
            return
    raise Failed("the load does not begin")


def restart(cluster, process, more):
    began = time.monotonic()
    stopping = cluster.stop(process)
    cluster.start(process, more)
    for kind in ("startupProbe", "readinessProbe"):
        until(f"{process.name}: {kind}", lambda: cluster.is_running(process) and cluster.probe(process, kind))
    return began, stopping, time.monotonic() - began


def measure(cluster, process, more, arguments, watchers, gateways):
    # Clients stand at the first gateway; when that one is restarted they see it.
    target = f"http://{gateways[0].address}:50051"
    watcher = watchers[1] if process is gateways[0] else watchers[0]
    run = load(cluster, target, arguments)
    begun(run)
    threading.Thread(target=lambda: [None for _ in run.stderr], daemon=True).start()
    time.sleep(BEFORE)
    usual = watcher.longest_pause(time.monotonic() - BEFORE + 1, time.monotonic())
    began, stopping, away = restart(cluster, process, more)
    out = run.stdout.read()
    run.wait()
    stall = watcher.longest_pause(began, began + AFTER - 1)
    summary = json.loads(out) if out else {}
    return {"stopping": stopping, "away": away, "stall": stall, "usual": usual, "summary": summary}


def holds(watchers, gateways):
    """Every receipt that was told is still there, final, and the same."""
    ledger = Ledger(f"{gateways[0].address}:50051")
    told = [told for watcher in watchers for told in list(watcher.told.items())]
    for hash_, status in told:
        receipt = ledger.GetReceipt(hash=hash_, wait=FINAL, timeout_ms=20000).receipt
        if receipt.finality != FINAL or status not in (None, receipt.status):
            raise Failed(f"{hash_.hex()} was acknowledged, and is now {receipt}")
    return len(told)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoll", required=True, type=lambda text: str(pathlib.Path(text).resolve()))
    parser.add_argument("--rate", default="500")
    parser.add_argument("--workload", default="mix")
    parser.add_argument("file", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-rolling-") as directory:
        _, cluster = opened(arguments.file, arguments.atoll, directory)
        more = funded(cluster)
        try:
            for process in cluster.services():
                cluster.start(process, more)
            for process in cluster.services():
                cluster.is_up(process)
            gateways = [process for process in cluster.services() if process.component == "gateway"]
            watchers = [Watcher(f"{gateway.address}:50051") for gateway in gateways]
            order = sorted(cluster.services(), key=lambda process: (process.component == "gateway", process.name))
            for process in order:
                seen = measure(cluster, process, more, arguments, watchers, gateways)
                summary = seen.pop("summary")
                numbers = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in seen.items())
                keep = {key: summary.get(key) for key in ("submitted", "final", "retries", "failures", "refusals")}
                print(f"{process.name}: {numbers}; {json.dumps(keep)}", flush=True)
            print(f"{holds(watchers, gateways)} receipts were told, and all hold")
        finally:
            cluster.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
