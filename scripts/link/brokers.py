"""Brokers, publishers and what a consumer finds in the end: the real program, started in a namespace or outside."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time

from net import Failed, die_with_parent, end, read_text, wait_for

PORT = 8433
# What both ends keep: `main` is forwarded, `local` is not.
QUEUES = """
queues:
  - {name: main, capture: ["site/#"], keep: KEEP, limits: {bytes: 8GiB}}
  - {name: local, capture: ["local/#"], limits: {bytes: 8GiB}}
"""
HUB = """
name: hub
listen: {tcp: ["0.0.0.0:%d"]}
auth: {anonymous: [open]}
""" % PORT
EDGE = """
name: edge
listen: {tcp: none}
"""


class Place:
    """A folder for everything, and the program."""

    def __init__(self, program, keep=False):
        self.program = program
        # Absolute: programs run inside namespaces with the same files.
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="tidegate-link."))
        self.keep = keep

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def close(self):
        if self.keep:
            print(f"left in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def tidegate(self, *arguments, timeout=60, codes=(0,)):
        """A command outside of every namespace; what it printed. It must end with one of these exit codes."""
        got = subprocess.run(
            [self.program, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        if got.returncode not in codes:
            raise Failed(f"tidegate {' '.join(map(str, arguments))}: exit code {got.returncode}: {got.stderr.strip()[-500:]}")
        return got.stdout


def edge_config(urls, further=""):
    """An edge that forwards `main`; `further` are keys of the bridge, one a line."""
    lines = "".join(f"    {line}\n" for line in further.splitlines())
    text = ", ".join(f'"{url}"' for url in urls)
    return EDGE + QUEUES.replace("KEEP", "work") + f'bridges:\n  - name: hub\n    urls: [{text}]\n    up: ["main"]\n{lines}'


def hub_config():
    # A log: in the end it is read from its beginning.
    return HUB + QUEUES.replace("keep: KEEP,", "keep: limits, overflow: drop-oldest,")


def plain_config():
    return EDGE + QUEUES.replace("KEEP", "work")


class Broker:
    def __init__(self, place, name, config, namespace=None, env=None):
        self.place, self.name, self.namespace = place, name, namespace
        self.config = place.write(f"{name}.yaml", "log: {level: info}\n" + config)
        self.data, self.log = place.path(f"{name}.data"), place.path(f"{name}.log")
        self.url = f"unix://{self.data}/tidegate.sock"
        self.env = {**os.environ, **(env or {})}
        self.process = None
        self.start()

    def start(self):
        arguments = [self.place.program, "serve", "--config", self.config, "--data", self.data]
        with open(self.log, "a", encoding="utf-8") as log:
            if self.namespace is None:
                self.process = subprocess.Popen(
                    arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, preexec_fn=die_with_parent
                )
            else:
                self.process = self.namespace.start(arguments, stdout=log, stderr=log, env=self.env)

        def ready():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} does not start: {read_text(self.log)[-800:]}")
            text = read_text(os.path.join(self.data, "ready.json"))
            return f'"pid":{self.process.pid},' in text or f'"pid":{self.process.pid}}}' in text

        wait_for(f"{self.name} listens", ready, 30)

    def kill(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended by itself: {read_text(self.log)[-800:]}")
        end(self.process)

    def stop(self):
        code = end(self.process, signal.SIGTERM, 30)
        if code != 0:
            raise Failed(f"{self.name} did not stop in order: exit code {code}: {read_text(self.log)[-800:]}")

    def close(self):
        if self.process is not None:
            end(self.process)

    def signal(self, number):
        self.process.send_signal(number)

    def status(self):
        return json.loads(self.place.tidegate("status", "--json", "--url", self.url))

    def queue(self, name="main"):
        return next(queue for queue in self.status()["queues"] if queue["name"] == name)

    def bridge(self):
        """How its one bridge is."""
        return self.status()["bridges"][0]

    def bench(self, count):
        """Microseconds of local publishes, one at a time: the median and the p99."""
        out = self.place.tidegate(
            "bench", "--publishers", 1, "--window", 1, "--count", count, "--channel", "local/bench", "--json", "--url", self.url
        )
        latency = json.loads(out)["publish_latency_us"]
        return latency["p50"], latency["p99"], latency["max"]


class Publisher:
    """Publishes numbered lines that cannot be compressed at a steady rate, until it is finished."""

    def __init__(self, place, broker, rate, size=256, name="lines", seed=1, channel="site/lines", further=()):
        self.path = place.path(f"{name}.txt")
        self.rate, self.size, self.random = rate, size, random.Random(seed)
        self.count, self.stopping, self.error = 0, threading.Event(), None
        self.out = place.path(f"{name}.json")
        with open(self.out, "w", encoding="utf-8") as out, open(place.path(f"{name}.log"), "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [place.program, "pub", channel, "--lines", "--json", *further, "--url", broker.url],
                stdin=subprocess.PIPE, stdout=out, stderr=log, preexec_fn=die_with_parent,
            )
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def write(self):
        try:
            with open(self.path, "wb") as copy:
                begun = time.monotonic()
                while not self.stopping.is_set():
                    due = int((time.monotonic() - begun) * self.rate) + 1 - self.count
                    for _ in range(due):
                        # Letters by chance: LZ4 finds nothing in them.
                        body = self.random.randbytes(self.size).translate(LETTERS)
                        line = (b"%08d " % self.count + body)[: self.size] + b"\n"
                        copy.write(line)
                        self.process.stdin.write(line)
                        self.count += 1
                    self.process.stdin.flush()
                    self.stopping.wait(max(0.002, 1 / self.rate))
                copy.flush()
            self.process.stdin.close()
        except OSError as error:
            self.error = error

    def finish(self, seconds=60):
        """No more lines; all of them must be acknowledged by the local broker. How many there were."""
        self.stopping.set()
        self.thread.join(seconds)
        if self.thread.is_alive() or self.error:
            raise Failed(f"the local broker stopped taking messages: {self.error or 'the publisher hangs'}")
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed("the local broker stopped acknowledging: the publisher hangs") from None
        report = json.loads(read_text(self.out) or "{}")
        if code != 0 or report.get("messages") != self.count or report.get("failed") != 0:
            raise Failed(f"not every publish went well, of {self.count}: exit code {code}, {report}")
        return self.count

    def close(self):
        self.stopping.set()
        self.thread.join(10)
        end(self.process)


# A byte to a printable letter, 64 of them.
LETTERS = bytes(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[i % 64] for i in range(256))


def arrives_once_in_order(place, hub, publisher, seconds, name="copy"):
    """Waits until the hub has as many messages as were published, and compares them all. Seconds it took."""
    begun = time.monotonic()

    def there():
        return hub.queue()["messages"] >= publisher.count

    try:
        wait_for("everything is at the hub", there, seconds, every=0.2)
    except Failed as error:
        raise Failed(f"{error}: {hub.queue()['messages']} of {publisher.count}") from None
    took = time.monotonic() - begun
    copy = place.path(f"{name}.txt")
    # Ends when nothing came for a second: what is there too much must have the time to come.
    place.tidegate("consume", "main", "--as", name, "--out", copy, "--until-empty", "--url", hub.url, timeout=120)
    compare(publisher.path, copy)
    return took


def compare(published, copy):
    with open(published, "rb") as file:
        wanted = file.read().splitlines()
    with open(copy, "rb") as file:
        got = file.read().splitlines()
    if got == wanted:
        return
    where = next((i for i, (a, b) in enumerate(zip(wanted, got)) if a != b), min(len(wanted), len(got)))
    twice, missing = len(got) - len(set(got)), len(set(wanted) - set(got))
    shown = [line[:9].decode(errors="replace") for line in got[max(0, where - 1) : where + 3]]
    raise Failed(
        f"of {len(wanted)} lines {len(got)} came: {twice} twice, {missing} missing; the first difference is at line {where}: {shown}"
    )


class Clock:
    """Sets the wall clock of a broker: `tests/faults/preload.c`, built here, and the file by which it is told."""

    CLOCK_SECONDS, PLACES = 7, 10

    def __init__(self, place, root):
        self.library, self.control = place.path("faults.so"), place.path("faults.control")
        source = os.path.join(root, "tests", "faults", "preload.c")
        got = subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", self.library, source, "-ldl"], capture_output=True, text=True
        )
        if got.returncode != 0:
            raise Failed(f"cc: {got.stderr.strip()[-500:]}")
        with open(self.control, "wb") as file:
            file.write(bytes(8 * self.PLACES))

    def env(self, data):
        return {"LD_PRELOAD": self.library, "FAULTS_CONTROL": self.control, "FAULTS_FOLDER": data}

    def set(self, seconds):
        """So far off from the machine's clock is the broker's from now on."""
        with open(self.control, "r+b", buffering=0) as file:
            file.seek(8 * self.CLOCK_SECONDS)
            file.write(struct.pack("=q", seconds))
