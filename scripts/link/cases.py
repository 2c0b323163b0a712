"""The cases of `scripts/link-test.sh`: real brokers over an emulated link, and what must hold."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback

import net
from brokers import PORT, Broker, Clock, Place, Publisher, arrives_once_in_order, edge_config, hub_config, plain_config
from net import BareCopy, Failed, Link, NotPermitted, die_with_parent, end, rate_between, wait_for

ROOT = os.path.dirname(os.path.dirname(net.HERE))
NOT_PERMITTED = 3
# Two heartbeats of 15 s: within them a link that lost its far end is noticed.
NOTICE_S = 30.0
# From a link that works again to everything at the hub: the longest wait between two tries is 60 s, and a jitter.
SETTLE_S = 120.0
# The median of publish latency beside a broker without a bridge; benches/bench-bridge.sh holds it to less, on a quiet machine.
LATENCY_RATIO_MAX = 1.25
# No local publish may wait for the upstream, nor for a lookup: those take seconds. A machine at work stalls for less.
STALL_MS_MAX = 1_500


class Case:
    """What a case is given, and where it says what it found."""

    def __init__(self, name, place, quick, seed):
        self.name, self.place, self.quick, self.seed = name, place, quick, seed
        self.rows, self.parts = [], []

    def row(self, what, asked, measured, ok=True):
        self.rows.append({"case": self.name, "what": what, "asked": asked, "measured": measured, "ok": bool(ok)})

    def owns(self, part):
        self.parts.append(part)
        return part

    def link(self, **options):
        return self.owns(Link(self.seed, seconds_max=1_800, **options))

    def broker(self, *arguments, **options):
        return self.owns(Broker(self.place, *arguments, **options))

    def pair(self, link, name="", further="", url=f"tcp://{net.HUB}:{PORT}", env=None):
        """A hub, and an edge that forwards to it."""
        hub = self.broker(f"hub{name}", hub_config(), namespace=link.hub)
        edge = self.broker(f"edge{name}", edge_config([url], further), namespace=link.edge, env=env)
        return hub, edge

    def publisher(self, broker, rate, **options):
        return self.owns(Publisher(self.place, broker, rate, seed=self.seed, **options))

    def close(self):
        for part in reversed(self.parts):
            part.close()

    # -- what several cases ask --

    def flows(self, hub, messages=20, seconds=60):
        wait_for("messages flow", lambda: hub.queue()["messages"] >= messages, seconds)

    def settled(self, edge):
        """The bridge says that it is open: a status is up to half a second old."""
        return wait_for("the bridge is open", lambda: (lambda b: b["state"] == "open" and b)(edge.bridge()), 60)["connects"]

    def arrived(self, hub, publisher, seconds=SETTLE_S, name="copy", what="everything arrives once, in order"):
        count = publisher.finish()
        try:
            took = arrives_once_in_order(self.place, hub, publisher, seconds, name)
            self.row(what, f"{count} lines", f"{count} lines, {took:.1f} s later")
        except Failed as error:
            self.row(what, f"{count} lines", str(error), False)

    def latency(self, pairs):
        """Rows of what local publishes took, by pairs of runs beside a broker without a bridge."""
        ratios = [with_bridge[0] / without[0] for with_bridge, without in pairs]
        ratio = statistics.median(ratios)
        most = max(with_bridge[2] for with_bridge, _ in pairs) / 1_000
        medians = [statistics.median(side[0] for side in sides) for sides in zip(*pairs)]
        self.row(
            f"local publish latency, median of {len(pairs)} paired runs", f"<= {LATENCY_RATIO_MAX} x",
            f"{ratio:.2f} x ({medians[0]:.0f} and {medians[1]:.0f} us)", ratio <= LATENCY_RATIO_MAX,
        )
        self.row("the longest local publish", f"< {STALL_MS_MAX} ms", f"{most:.0f} ms", most < STALL_MS_MAX)


def pair_of_runs(number, edge, plain, count=200):
    # By turns, so that neither is always the first.
    if number % 2:
        return edge.bench(count), plain.bench(count)
    without = plain.bench(count)
    return edge.bench(count), without


def thin(case):
    """50 kbit/s, 600 ms round trip, 2 % loss each way: no false disconnect, and 80 % of what a bare TCP copy gets"""
    seconds = 60 if case.quick else 600
    link, beside = case.link(), case.link()
    for each in (link, beside):
        each.set(rate=50_000, round_trip=600, loss=0.02, queue=2_000)
    hub, edge = case.pair(link, further="compress: false")
    # More than the link takes, so that there is always something to send.
    publisher = case.publisher(edge, 20, size=1_024)
    case.flows(hub)
    case.settled(edge)
    copy = case.owns(BareCopy(beside, case.place.path("copy.bytes")))
    wait_for("the copy flows", lambda: copy.samples() and copy.samples()[-1][1] > 0, 30)
    # After slow start.
    begin = time.monotonic() + 10
    samples, connects, open_all, healthy = [], set(), True, []
    while time.monotonic() < begin + seconds + 1:
        samples.append((time.monotonic(), hub.queue()["messages"] * publisher.size))
        bridge = edge.bridge()
        connects.add(bridge["connects"])
        open_all = open_all and bridge["state"] == "open"
        healthy.append(bridge["healthy"])
        time.sleep(0.5)
    bare = rate_between(copy.samples(), begin, begin + seconds)
    bridged = rate_between(samples, begin, begin + seconds)
    lost = max(connects) - 1
    case.row(f"no false disconnect in {seconds} s", "0", f"{lost} ({link.congestion_control()})", lost == 0 and open_all)
    case.row(
        f"uncompressed payloads of {publisher.size} B beside a bare TCP copy", ">= 80 %",
        f"{100 * bridged / bare:.0f} % ({bridged * 8 / 1000:.1f} of {bare * 8 / 1000:.1f} kbit/s)", bridged >= 0.8 * bare,
    )
    # Ids, channels and times are data, too.
    whole = bridged * bridge["bytes"]["records"] / max(1, bridge["acked"] + bridge["in_flight"]) / publisher.size
    case.row("the same with channel, id, time and origin", "told", f"{100 * whole / bare:.0f} %")
    case.row("healthy, of all looks", "told", f"{100 * sum(healthy) / len(healthy):.0f} %")
    # What has gathered would take an hour at this rate.
    link.set(round_trip=100)
    case.arrived(hub, publisher)


def hole(case):
    """A black hole in mid-stream, both ways and each way alone: noticed within two heartbeats, and nothing local waits"""
    ways = ["both"] if case.quick else ["both", "up", "down"]
    plain = case.broker("plain", plain_config())
    sites = []
    for way in ways:
        link = case.link()
        link.set(rate=1_000_000, round_trip=100, queue=500)
        hub, edge = case.pair(link, name=f"-{way}")
        sites.append((way, link, hub, edge, case.publisher(edge, 50, name=f"lines-{way}")))
    # The same work for the other side of the pairs.
    case.publisher(plain, 50, name="lines-plain")
    for _, _, hub, edge, _ in sites:
        case.flows(hub)
        case.settled(edge)
    for way, link, *_ in sites:
        link.say(f"hole {way} on")
    begin = time.monotonic()
    noticed, pairs = {}, []
    # One way alone, what comes shows that the far end lives: then the age of the last acknowledgement counts.
    limits = {"both": NOTICE_S, "up": 2 * NOTICE_S, "down": NOTICE_S}
    while len(noticed) < len(sites) and time.monotonic() < begin + 2.5 * NOTICE_S:
        for way, _, _, edge, _ in sites:
            if way not in noticed:
                bridge = edge.bridge()
                if bridge["state"] != "open" or bridge["connects"] > 1:
                    noticed[way] = (time.monotonic() - begin, bridge["last_error"])
        pairs.append(pair_of_runs(len(pairs), sites[0][3], plain))
    # Some more while it tries again and again.
    pairs += [pair_of_runs(number, sites[0][3], plain) for number in range(10)]
    for way in ways:
        took, why = noticed.get(way, (None, "never noticed"))
        case.row(
            f"a hole ({way}) is noticed", f"<= {limits[way]:.0f} s", f"{took:.1f} s ({why})" if took is not None else why,
            took is not None and took <= limits[way],
        )
    case.latency(pairs)
    for way, link, hub, _, publisher in sites:
        link.say(f"hole {way} off")
        case.arrived(hub, publisher, name=f"copy-{way}", what=f"after the hole ({way}) everything arrives once, in order")


def cuts(case):
    """24 cuts in two minutes: connections reset, links that only pause, devices that go: everything once, in order"""
    count, seconds = (8, 40) if case.quick else (24, 120)
    link = case.link()
    link.set(rate=2_000_000, round_trip=100, loss=0.005, queue=500)
    hub, edge = case.pair(link)
    publisher = case.publisher(edge, 100)
    case.flows(hub)
    begin = time.monotonic()
    for number in range(count):
        kind = ("reset", "keep", "device")[number % 3]
        time.sleep(max(0, begin + seconds / count * (number + 0.7) - time.monotonic()))
        if kind == "device":
            link.device(False)
        link.say("cut keep" if kind == "keep" else "cut reset")
        time.sleep(max(0, begin + seconds / count * (number + 1) - time.monotonic()))
        link.say("restore")
        if kind == "device":
            link.device(True)
    took = time.monotonic() - begin
    case.arrived(hub, publisher, what=f"{count} cuts in {took:.0f} s: everything arrives once, in order")
    bridge = edge.bridge()
    case.row("connections made meanwhile", "> 1", f"{bridge['connects']}, the last error: {bridge['last_error']}", bridge["connects"] > 1)


def names(case):
    """A name server that never answers: the local path does not notice, and the bridge goes on once the name is known"""
    files = {
        case.place.write("resolv.conf", "nameserver 10.77.99.53\n"): "/etc/resolv.conf",
        case.place.write("hosts", "127.0.0.1 localhost\n"): "/etc/hosts",
    }
    if os.path.exists("/etc/nsswitch.conf"):
        files[case.place.write("nsswitch.conf", "hosts: files dns\n")] = "/etc/nsswitch.conf"
    link = case.link(edge_files=files)
    link.set(round_trip=20)
    plain = case.broker("plain", plain_config())
    hub, edge = case.pair(link, url=f"tcp://hub.example:{PORT}")
    publisher = case.publisher(edge, 50)
    case.publisher(plain, 50, name="lines-plain")
    pairs = [pair_of_runs(number, edge, plain) for number in range(20 if case.quick else 60)]
    case.latency(pairs)
    asked = link.say("stats")["up"]["packets_in"]
    case.row("questions reach the silent server", "> 0", f"{asked} packets", asked > 0)
    wait_for("the bridge says why", lambda: edge.bridge()["last_error"], 60, every=0.2)
    bridge = edge.bridge()
    case.row("the reason in status", "dns", bridge["last_error"], bridge["last_error"] == "dns")
    # In place: what is mounted is this very file.
    with open(case.place.path("hosts"), "a", encoding="utf-8") as file:
        file.write(f"{net.HUB} hub.example\n")
    case.arrived(hub, publisher, what="once the name is known, everything arrives once, in order")


def killed(case):
    """The hub killed with -9 and started again, then the edge, in mid-stream: everything once, in order"""
    link = case.link()
    link.set(rate=5_000_000, round_trip=40, queue=500)
    hub, edge = case.pair(link)
    publisher = case.publisher(edge, 500)
    case.flows(hub)
    kills = 3 if case.quick else 10
    for _ in range(kills):
        before = hub.queue()["messages"]
        hub.kill()
        time.sleep(0.5)
        hub.start()
        # The wait between tries has not grown: it begins anew once a link has held.
        case.flows(hub, before + 100, 90)
    edge.kill()
    edge.start()
    case.flows(hub, hub.queue()["messages"] + 100, 90)
    case.arrived(hub, publisher, what=f"hub killed {kills} times, edge once: everything arrives once, in order")


def stopped(case):
    """A hub that stops reading (SIGSTOP) is noticed; when it goes on, everything is there once, in order"""
    link = case.link()
    link.set(rate=5_000_000, round_trip=40, queue=500)
    hub, edge = case.pair(link)
    publisher = case.publisher(edge, 200)
    case.flows(hub)
    connects = case.settled(edge)
    hub.signal(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        bridge = wait_for(
            "it is noticed", lambda: (lambda b: (b["state"] != "open" or b["connects"] > connects) and b)(edge.bridge()), 2.5 * NOTICE_S
        )
        took = time.monotonic() - begin
        case.row("a hub that stops reading is noticed", f"<= {NOTICE_S:.0f} s", f"{took:.1f} s ({bridge['last_error']})", took <= NOTICE_S)
    except Failed as error:
        case.row("a hub that stops reading is noticed", f"<= {NOTICE_S:.0f} s", str(error), False)
    hub.signal(signal.SIGCONT)
    case.arrived(hub, publisher, what="once it goes on, everything arrives once, in order")


def clock(case):
    """An edge that begins in 1970, jumps to today under load and back by a year: nothing expires early, nothing hangs"""
    link = case.link()
    link.set(rate=5_000_000, round_trip=40, queue=500)
    clock = Clock(case.place, ROOT)
    year = 365 * 86_400
    unset = 20 - int(time.time())
    hub = case.broker("hub", hub_config(), namespace=link.hub)
    config = edge_config([f"tcp://{net.HUB}:{PORT}"]).replace("limits: {bytes: 8GiB}", "limits: {bytes: 8GiB, age: 1h}", 1)
    clock.set(unset)
    edge = case.broker("edge", config, namespace=link.edge, env=clock.env(case.place.path("edge.data")))
    publisher = case.publisher(edge, 100, further=("--ttl", "1h"))
    case.flows(hub)
    for jump in (0, -year, 0, -year):
        # Some wait at the edge while its clock jumps, so that they could be too old.
        link.say("hole up on")
        behind = publisher.count + 100
        wait_for("lines are published", lambda: publisher.count >= behind, 20)
        clock.set(jump)
        wait_for("lines are published after the jump", lambda: publisher.count >= behind + 100, 20)
        link.say("hole up off")
        case.flows(hub, behind + 100, 60)
    case.arrived(hub, publisher, what="1970, today, a year back, today, a year back: all arrives once, in order")
    for broker in (edge, hub):
        counters = broker.status()["counters"]
        lost = counters["expired"] + counters["dead"] + counters["lost"]
        case.row(f"expired or dead at the {broker.name}", "0", str(lost), lost == 0)
    edge.stop()


CASES = {function.__name__: function for function in (thin, hole, cuts, names, killed, stopped, clock)}
# Latencies are measured in these: each runs alone.
ALONE = ("hole", "names")


def run_case(name, program, quick, seed, keep):
    """Rows of a case; a failure on the way is one."""
    place = Place(program, keep)
    case = Case(name, place, quick, seed)
    try:
        CASES[name](case)
    except (Failed, KeyError, IndexError, OSError, subprocess.SubprocessError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(f"{type(error).__name__}: {error} ({where.name}:{where.lineno})".split())
        case.row("the case comes to its end", "yes", said, False)
    finally:
        case.close()
        place.close()
    return case.rows


def show(row):
    state = "ok" if row["ok"] else "FAILED"
    return f"{row['case']:<8} {state:<6}  {row['what']}: {row['measured']} (asked {row['asked']})"


def table(rows):
    columns = [("CASE", "case"), ("WHAT", "what"), ("ASKED", "asked"), ("MEASURED", "measured")]
    widths = [max(len(title), *(min(90, len(row[key])) for row in rows)) for title, key in columns]
    lines = ["  ".join(f"{title:<{width}}" for (title, _), width in zip(columns, widths)) + "  RESULT"]
    for row in rows:
        cells = "  ".join(f"{row[key]:<{width}}" for (_, key), width in zip(columns, widths))
        lines.append(f"{cells}  {'ok' if row['ok'] else 'FAILED'}")
    return "\n".join(lines)


def check_permitted():
    """Namespaces and TUN devices, tried before anything is measured."""
    missing = [tool for tool in ("unshare", "nsenter", "ip") if not any(
        os.access(os.path.join(folder, tool), os.X_OK) for folder in os.environ.get("PATH", "").split(":")
    )]
    if missing:
        raise NotPermitted(f"these programs are missing: {', '.join(missing)}")
    Link(seed=1, seconds_max=10).close()


def run_all(names_, arguments):
    """All cases, in processes of their own; those that measure latencies after the others, alone."""
    rows = []

    def start(name):
        command = [sys.executable, __file__, arguments.program, "--only", name, "--rows", "--seed", str(arguments.seed)]
        command += ["--quick"] * arguments.quick + ["--keep"] * arguments.keep
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)

    def gather(name, process):
        said = process.communicate()[0]
        try:
            got = json.loads(said.splitlines()[-1])
        except (IndexError, ValueError):
            got = [{"case": name, "what": "the case comes to its end", "asked": "yes", "measured": f"exit code {process.returncode}", "ok": False}]
        for row in got:
            print(show(row), flush=True)
        rows.extend(got)

    together = {name: start(name) for name in names_ if name not in ALONE}
    try:
        for name, process in together.items():
            gather(name, process)
        for name in names_:
            if name in ALONE:
                together[name] = start(name)
                gather(name, together[name])
    finally:
        for process in together.values():
            end(process, signal.SIGTERM)
    order = list(CASES)
    return sorted(rows, key=lambda row: order.index(row["case"]))


def main():
    parser = argparse.ArgumentParser(description="see scripts/link-test.sh --help")
    parser.add_argument("program")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    unknown = [name for name in arguments.only if name not in CASES]
    if unknown:
        print(f"no case `{unknown[0]}`: {', '.join(CASES)}", file=sys.stderr)
        return 2
    wanted = [name for name in CASES if not arguments.only or name in arguments.only]
    try:
        if arguments.rows:
            print(json.dumps(run_case(wanted[0], arguments.program, arguments.quick, arguments.seed, arguments.keep)))
            return 0
        check_permitted()
    except NotPermitted as error:
        print(f"NOT PERMITTED on this machine, so nothing was tested: {error}", file=sys.stderr)
        return NOT_PERMITTED
    if arguments.quick:
        print("quick: thin lasts 60 s instead of 600, cuts are 8 in 40 s instead of 24 in 120, kills 3 instead of 10, holes both ways only")
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    rows = run_all(wanted, arguments)
    print(f"\n{table(rows)}\n\n{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
