"""Two network namespaces with the emulated link between them, and programs inside. Nothing of it outlives this process:
a namespace ends with the `cat` that holds it open, and that with the pipe to it; programs get SIGKILL with their parent."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
EDGE, HUB = "10.77.0.1", "10.77.0.2"


class NotPermitted(Exception):
    """What this machine does not let us do."""


class Failed(Exception):
    """What was asked for did not come true."""


def wait_for(what, ready, seconds, every=0.02):
    """Calls `ready` until it gives something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        got = ready()
        if got:
            return got
        if time.monotonic() > end:
            raise Failed(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def read_text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def die_with_parent():
    # PR_SET_PDEATHSIG: in the child, before it becomes the program.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


class Namespace:
    """A network and a mount namespace. `files` are put over others, for programs inside alone."""

    def __init__(self, files=None):
        script = "ip link set lo up && "
        for source, target in (files or {}).items():
            # Where the target is a link to elsewhere, elsewhere is what programs read.
            script += f'mount --bind "{source}" "$(readlink -f "{target}")" && '
        script += "echo ready && exec cat"
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            raise NotPermitted(f"network namespaces: {self.holder.communicate()[1].strip() or 'unshare failed'}")

    def start(self, arguments, **options):
        """A program inside, as a process of ours by its own id. In our session, as those outside are: Linux shares a busy
        processor out by session first, and latencies of the two would not compare."""
        enter = ["nsenter", "--net", "--mount", "--target", str(self.holder.pid)]
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            [*enter, f"--wd={os.getcwd()}", *map(str, arguments)], preexec_fn=die_with_parent, **options
        )

    def run(self, arguments, **options):
        process = self.start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        out, err = process.communicate(timeout=60)
        if process.returncode != 0:
            raise Failed(f"{' '.join(map(str, arguments))}: exit code {process.returncode}: {err.strip()[-500:]}")
        return out

    def close(self):
        end(self.holder)


def end(process, how=signal.SIGKILL, seconds=10):
    """Ends a process of ours; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass
    return process.returncode


class Link:
    """An emulated link between the namespaces `edge` and `hub`."""

    def __init__(self, seed, seconds_max=3_600, edge_files=None):
        self.edge, self.hub, self.emulator = Namespace(edge_files), None, None
        try:
            self.hub = Namespace()
            self.emulator = subprocess.Popen(
                ["unshare", "--net", sys.executable, os.path.join(HERE, "emulator.py"), "--left", str(self.edge.holder.pid),
                 "--right", str(self.hub.holder.pid), "--seed", str(seed), "--seconds-max", str(seconds_max)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            answer = self.emulator.stdout.readline()
            if '"ready"' not in answer:
                error = self.emulator.communicate()[1].strip().splitlines()
                raise NotPermitted(f"TUN devices: {answer.strip() or (error or ['no answer'])[-1]}")
        except BaseException:
            self.close()
            raise

    def say(self, line):
        """A command to the emulator; its answer."""
        self.emulator.stdin.write(line + "\n")
        self.emulator.stdin.flush()
        answer = json.loads(self.emulator.stdout.readline() or '{"error": "the emulator has ended"}')
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def set(self, rate=0, round_trip=0, loss=0.0, queue=0):
        """The same both ways: bit/s, ms, share, ms."""
        self.say(f"set both rate={rate} delay={round_trip / 2} loss={loss} queue={queue}")

    def device(self, up):
        """The edge's device as if the modem were unplugged, or plugged in again."""
        self.edge.run(["ip", "link", "set", "link0", "up" if up else "down"])
        if up:
            # It went with the device.
            self.edge.run(["ip", "route", "replace", "default", "via", HUB])

    def congestion_control(self):
        """The machine's, for the bridge and for the copy it is compared with."""
        return self.edge.run(["cat", "/proc/sys/net/ipv4/tcp_congestion_control"]).strip()

    def close(self):
        for part in (self.emulator, self.edge, self.hub):
            if part is not None:
                end(part) if isinstance(part, subprocess.Popen) else part.close()


# -- a bare TCP copy, to compare with --

SENDER = """
import socket, os
s = socket.create_connection((os.environ["TO"], int(os.environ["PORT"])))
block = os.urandom(65536)
while True:
    s.sendall(block)
"""

# Total bytes so far, each half a second.
TAKER = """
import socket, os, time, select
l = socket.create_server((os.environ["TO"], int(os.environ["PORT"])))
print("listening", flush=True)
c, _ = l.accept()
total, due = 0, time.monotonic()
while True:
    if select.select([c], [], [], max(0, due - time.monotonic()))[0]:
        got = c.recv(65536)
        if not got:
            break
        total += len(got)
    if time.monotonic() >= due:
        due += 0.5
        print(time.monotonic(), total, flush=True)
"""


class BareCopy:
    """Bytes from the edge to the hub over one TCP connection, as fast as it goes, from now on."""

    PORT = 9

    def __init__(self, link, path):
        self.path = path
        environment = {**os.environ, "TO": HUB, "PORT": str(self.PORT)}
        with open(path, "w", encoding="utf-8") as out:
            self.taker = link.hub.start([sys.executable, "-c", TAKER], stdout=out, env=environment)
        try:
            wait_for("the copy's far end listens", lambda: "listening" in read_text(path), 10)
            self.sender = link.edge.start([sys.executable, "-c", SENDER], env=environment)
        except BaseException:
            end(self.taker)
            raise

    def samples(self):
        """(seconds of the monotonic clock, bytes) since it began."""
        lines = [line.split() for line in read_text(self.path).splitlines()[1:]]
        return [(float(line[0]), int(line[1])) for line in lines if len(line) == 2]

    def close(self):
        end(self.sender)
        end(self.taker)


def rate_between(samples, begin, finish):
    """Bytes a second between the samples next to two times."""
    inside = [sample for sample in samples if begin <= sample[0] <= finish]
    if len(inside) < 2 or inside[-1][0] - inside[0][0] < (finish - begin) / 2:
        raise Failed("too few samples of the copy: did it get through at all?")
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
