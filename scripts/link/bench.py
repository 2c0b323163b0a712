"""The figures of `scripts/bench-bridge.sh`: an edge and a hub of ours beside two Mosquittos, and an edge beside one without a bridge."""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import sys
import time

import mqtt
from brokers import LETTERS, Broker, Place, edge_config, hub_config, plain_config
from net import Failed, Link, NotPermitted, read_text, wait_for

BYTES = 256
TICKS = os.sysconf("SC_CLK_TCK")


def free_ports(count):
    """Free ones, below those that the system gives to clients."""
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, 30_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            ports.append(port)
        except OSError:
            continue
    return ports


def cpu_seconds(pid):
    """User and system time of a process and its threads."""
    words = read_text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICKS


def memory_mib(pid):
    """Resident now and at its most."""
    lines = dict(line.split(":", 1) for line in read_text(f"/proc/{pid}/status").splitlines() if ":" in line)
    return [int(lines[name].split()[0]) / 1_024 for name in ("VmRSS", "VmHWM")]


class Run:
    def __init__(self, place, quick, seed):
        self.place, self.quick, self.seed, self.parts = place, quick, seed, []
        self.count = 50_000 if quick else 500_000
        self.random = random.Random(seed)

    def broker(self, name, config, **options):
        broker = Broker(self.place, name, config, **options)
        self.parts.append(broker)
        return broker

    def owns(self, part):
        self.parts.append(part)
        return part

    def close(self):
        for part in reversed(self.parts):
            part.close()


def local(config, port=None):
    """A configuration whose hub listens on the loopback alone."""
    return config.replace("0.0.0.0:8433", f"127.0.0.1:{port}")


# -- a backlog, drained --

def lines_of(run, count):
    """Payloads by chance, nothing in them for LZ4."""
    return [run.random.randbytes(BYTES).translate(LETTERS) for _ in range(count)]


def drain(run, further=""):
    """Queued while the hub is away, then drained: messages a second, the edge's memory, CPU a message."""
    [port] = free_ports(1)
    edge = run.broker("edge", edge_config([f"tcp://127.0.0.1:{port}"], further))
    pid = edge.process.pid
    payloads = lines_of(run, run.count)
    path = run.place.path("payloads.txt")
    with open(path, "wb") as file:
        file.write(b"\n".join(payloads) + b"\n")
    # What a durable publish costs here: many publishers, as in docs/performance.md, into a queue that is not forwarded.
    before = cpu_seconds(pid)
    run.place.tidegate("bench", "--count", run.count, "--channel", "local/bench", "--url", edge.url, timeout=300)
    publish_cpu = (cpu_seconds(pid) - before) / run.count
    run.place.tidegate("pub", "site/lines", "--lines", "--file", path, "--url", edge.url, timeout=300)
    resident, most = memory_mib(pid)
    queued = edge.queue()["messages"]
    if queued != run.count:
        raise Failed(f"{queued} of {run.count} are queued")
    hub = run.broker("hub", local(hub_config(), port))
    # The edge tries again at the latest after a minute, and is not asked to hurry: what is measured begins with the first message.
    wait_for("the first message is at the hub", lambda: hub.status()["counters"]["published"], 90, every=0.01)
    begin, before = time.monotonic(), cpu_seconds(pid)
    first = hub.status()["counters"]["published"]
    wait_for("all are at the hub", lambda: hub.status()["counters"]["published"] >= run.count, 300, every=0.02)
    took = time.monotonic() - begin
    forward_cpu = (cpu_seconds(pid) - before) / (run.count - first)
    hub_most = memory_mib(hub.process.pid)[1]
    if hub.queue()["messages"] != run.count:
        raise Failed(f"{hub.queue()['messages']} of {run.count} are at the hub")
    run.close()
    run.parts.clear()
    return {
        "rate": (run.count - first) / took, "resident": resident, "most": most, "hub_most": hub_most,
        "publish_us": publish_cpu * 1e6, "forward_us": forward_cpu * 1e6,
    }


# -- telemetry --

class Device:
    """A machine that reports: values that drift, states that seldom change, counters that grow."""

    def __init__(self, chance, number):
        self.chance = chance
        self.id = f"boiler-{number:03d}"
        self.serial = "".join(chance.choices("0123456789ABCDEF", k=12))
        self.temperature, self.pressure = chance.uniform(55, 75), chance.uniform(1.1, 1.9)
        self.flow, self.power = chance.uniform(8, 14), chance.uniform(300, 900)
        self.hours, self.sequence, self.state = chance.uniform(100, 9_000), 0, "heating"

    def report(self, at_ms):
        drift = self.chance.gauss
        self.temperature += drift(0, 0.15)
        self.pressure += drift(0, 0.004)
        self.flow += drift(0, 0.05)
        self.power = max(0.0, self.power + drift(0, 12))
        self.hours += 1 / 720
        self.sequence += 1
        if self.chance.random() < 0.01:
            self.state = self.chance.choice(["heating", "idle", "purge", "hot-water"])
        seconds, ms = divmod(at_ms, 1_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03d}Z"
        return json.dumps(
            {
                "device": self.id, "serial": self.serial, "site": "plant-7", "line": "B", "firmware": "4.12.1",
                "ts": stamp, "seq": self.sequence, "state": self.state,
                "measurements": {
                    "temperature_c": round(self.temperature, 2), "pressure_bar": round(self.pressure, 3),
                    "flow_lpm": round(self.flow, 2), "power_w": round(self.power, 1), "hours": round(self.hours, 3),
                },
                "alarms": [], "quality": "good",
            },
            separators=(",", ":"),
        )


def compression(run):
    """Telemetry of 20 devices, each every five seconds with some jitter, forwarded as it is."""
    [port] = free_ports(1)
    hub = run.broker("hub-json", local(hub_config(), port))
    hub.stop()
    edge = run.broker("edge-json", edge_config([f"tcp://127.0.0.1:{port}"]))
    chance = random.Random(run.seed)
    devices = [Device(chance, number) for number in range(1, 21)]
    reports = 200 if run.quick else 1_000
    at = 1_790_000_000_000
    lines = []
    for _ in range(reports):
        at += 5_000
        lines += [device.report(at + chance.randrange(0, 900)) for device in devices]
    path = run.place.path("telemetry.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    run.place.tidegate("pub", "site/plant-7/telemetry", "--lines", "--file", path, "--url", edge.url, timeout=120)
    hub.start()
    wait_for("all are at the hub", lambda: hub.queue()["messages"] >= len(lines), 120, every=0.05)
    # A status is up to half a second old.
    kinds = wait_for("the edge has heard it", lambda: (lambda b: b["acked"] >= len(lines) and b)(bridge_of(run, edge)), 30)["bytes"]
    size = sum(map(len, lines)) / len(lines)
    run.close()
    run.parts.clear()
    return {"ratio": kinds["records"] / kinds["batches"], "size": size, "wire": kinds["up"] / len(lines), "count": len(lines), "line": lines[-1]}


def bridge_of(run, edge):
    # 1: it is not healthy.
    said = json.loads(run.place.tidegate("bridge", "status", "--json", "--url", edge.url, codes=(0, 1)).splitlines()[0])
    return said[0] if isinstance(said, list) else said


# -- local latency --

def latencies(run, pairs, count):
    """One publisher with one message in flight: an edge whose upstream is a black hole, and one without a bridge, by turns."""
    try:
        link = run.owns(Link(run.seed))
        link.say("hole both on")
        url, where = "tcp://10.77.0.2:8433", "a black hole (nothing is answered)"
        edge = run.broker("edge-hole", edge_config([url]), namespace=link.edge)
    except NotPermitted as error:
        # Somebody who accepts and says nothing.
        silent = run.owns(socket.create_server(("127.0.0.1", 0)))
        url, where = f"tcp://127.0.0.1:{silent.getsockname()[1]}", f"an upstream that accepts and says nothing ({error})"
        edge = run.broker("edge-hole", edge_config([url]))
    plain = run.broker("plain", plain_config())

    def one(broker):
        out = run.place.tidegate(
            "bench", "--publishers", 1, "--window", 1, "--count", count, "--channel", "site/bench", "--json", "--url", broker.url
        )
        latency = json.loads(out)["publish_latency_us"]
        return latency["p50"], latency["p99"]

    one(edge), one(plain)
    found = []
    for number in range(pairs):
        if number % 2:
            found.append((one(edge), one(plain)))
        else:
            without = one(plain)
            found.append((one(edge), without))
    bridge = bridge_of(run, edge)
    run.close()
    run.parts.clear()
    return found, where, f"{bridge['state']}, {bridge['last_error'] or 'no error'}"


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description="see scripts/bench-bridge.sh --help")
    parser.add_argument("program")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=["drain", "compression", "latency"])
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    quick = arguments.quick
    rounds = arguments.rounds or (1 if quick else 5)
    wanted = arguments.only or ["drain", "compression", "latency"]
    place = Place(arguments.program, arguments.keep)
    run = Run(place, quick, arguments.seed)
    rows, notes = [], []

    def row(what, asked, measured, met=None):
        rows.append((what, asked, measured, "told" if met is None else "met" if met else "**not met**"))

    try:
        if "drain" in wanted:
            ours, theirs = [], []
            for number in range(rounds):
                print(f"== drain, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                ours.append(drain(run))
                if mqtt.program():
                    ports = free_ports(2)
                    # By turns with what is the faster of its settings: 20 in flight, or all.
                    inflight = (20, 0)[number % 2]
                    payloads = lines_of(run, run.count)
                    theirs.append((inflight, run.count / mqtt.seconds_to_drain(place, ports, payloads, inflight)))
            rate = statistics.median(result["rate"] for result in ours)
            shown = f"{run.count:,} x {BYTES} B drain over loopback, messages/s"
            if theirs:
                best = max(
                    statistics.median(rate for flight, rate in theirs if flight == inflight)
                    for inflight in {flight for flight, _ in theirs}
                )
                row(shown, f">= {best:,.0f} (two Mosquittos, QoS 1)", spread([r["rate"] for r in ours], 0), rate >= best)
                notes.append("Mosquittos: " + ", ".join(f"{rate:,.0f}/s with {flight or 'all'} in flight" for flight, rate in theirs))
            else:
                row(shown, "two Mosquittos: not installed", spread([r["rate"] for r in ours], 0))
            resident = [result["resident"] for result in ours]
            row(f"the edge with {run.count:,} queued, resident MiB", "< 32", spread(resident), max(resident) < 32)
            row("the same at its most", "", spread([result["most"] for result in ours]))
            row("the hub at its most", "", spread([result["hub_most"] for result in ours]))
            ratios = [result["forward_us"] / result["publish_us"] for result in ours]
            row(
                "the edge's CPU a forwarded message, of a local durable publish (8 x 100)", "<= 1.5 x",
                f"{spread(ratios)}: {spread([r['forward_us'] for r in ours])} of {spread([r['publish_us'] for r in ours])} us",
                statistics.median(ratios) <= 1.5,
            )
        if "compression" in wanted:
            print("== compression", file=sys.stderr, flush=True)
            got = compression(run)
            row(
                f"batches of JSON telemetry, records to what is sent ({got['count']:,} of {got['size']:.0f} B)", ">= 4 : 1",
                f"{got['ratio']:.2f} : 1, {got['wire']:.0f} B a message in all", got["ratio"] >= 4,
            )
            notes.append(f"telemetry: {got['line']}")
        if "latency" in wanted:
            pairs = 5 if quick else 15
            print(f"== latency, {pairs} pairs", file=sys.stderr, flush=True)
            found, where, state = latencies(run, pairs, 500 if quick else 3_000)
            for name, index, most in (("median", 0, 1.05), ("p99", 1, 1.25)):
                ratios = [with_bridge[index] / without[index] for with_bridge, without in found]
                sides = [statistics.median(side[index] for side in sides) for sides in zip(*found)]
                row(
                    f"local publish, {name}, dead upstream of no bridge ({pairs} pairs)", f"<= {most} x",
                    f"{spread(ratios)}: {sides[0]:.0f} of {sides[1]:.0f} us", statistics.median(ratios) <= most,
                )
            notes.append(f"dead upstream: {where}; the bridge then: {state}")
    except Failed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        run.close()
        place.close()
    print("| what | asked | measured: median (least to most) | |\n|---|---:|---:|---|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    for note in notes:
        print(f"\n{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
