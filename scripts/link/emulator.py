#!/usr/bin/env python3
"""A link between two network namespaces: a TUN device in each, and this process in between as the modem and the air.

usage: unshare --net python3 emulator.py --left PID --right PID [--seed N] [--seconds-max N]

  --left, --right  processes whose network namespaces the devices `link0` are put into (10.77.0.1 and 10.77.0.2, /30)
  --seed           what is lost is drawn from it [default: 1]
  --seconds-max    ends by itself after so long [default: 3600]

Each direction is a serial line: a packet waits until those before it are sent, takes its bits over the rate, may be lost
on the air (having taken its time), and arrives after the delay, in order. What would wait longer than the queue is
dropped, as a modem does. It ends when its standard input does, so never later than who started it.

Commands are lines on standard input; each is answered by a line of JSON. DIRECTION is `up` (left to right), `down` or
`both`:

  set DIRECTION NAME=VALUE...  rate (bit/s, 0 is no limit), delay (ms, one way), loss (share), queue (ms at the rate; 0: 1,000)
  hole DIRECTION on|off        everything is swallowed, and nobody is told
  cut [reset|keep]             the same both ways; with `reset` (the default) the connections of now are forgotten, as a
                               router on the way forgets them: their packets are answered with RST once it is restored
  restore                      after a cut
  stats                        packets and bytes that went in and came out, what was lost and why
  quit
"""

import argparse
import collections
import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
MTU = 1500
# Packets under way in a direction, whatever the rate: a bound of memory.
PACKETS_MAX = 20_000
# Connections remembered to be answered with RST after a cut.
FLOWS_MAX = 4_096
# Where no rate bounds the queue.
QUEUE_MS = 1_000
DIRECTIONS = ("up", "down")


def open_tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN_NO_PI))
    return fd


def ip(*arguments, inside=None):
    enter = [] if inside is None else ["nsenter", "--net", "--target", str(inside)]
    subprocess.run([*enter, "ip", *arguments], check=True, stdin=subprocess.DEVNULL)


def place(name, pid, own, peer):
    """Puts a device into the namespace of a process."""
    ip("link", "set", name, "name", "link0", "netns", str(pid))
    ip("addr", "add", f"{own}/30", "dev", "link0", inside=pid)
    ip("link", "set", "link0", "mtu", str(MTU), "up", inside=pid)
    # What is elsewhere is behind the link, too: the far end answers for none of it.
    ip("route", "add", "default", "via", peer, inside=pid)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Segment:
    """What is read of a TCP segment; `None` of anything else."""

    @classmethod
    def of(cls, packet):
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != 6:
            return None
        start = (packet[0] & 15) * 4
        # Only the first fragment has the ports.
        if len(packet) < start + 20 or struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
            return None
        self = cls()
        self.source, self.target = packet[12:16], packet[16:20]
        self.source_port, self.target_port, self.sequence, self.acknowledged, bits = struct.unpack_from(
            "!HHIIH", packet, start
        )
        self.flags = bits & 0x3F
        ends = sorted([(self.source, self.source_port), (self.target, self.target_port)])
        self.flow = tuple(ends)
        return self

    def opens(self):
        return self.flags & 0x12 == 0x02

    def resets(self):
        return bool(self.flags & 0x04)

    def reset(self):
        """The RST that answers it, which its sender takes: where it expects the next byte."""
        tcp = struct.pack(
            "!HHIIBBHHH", self.target_port, self.source_port, self.acknowledged, 0, 5 << 4, 0x04, 0, 0, 0
        )
        pseudo = self.target + self.source + struct.pack("!BBH", 0, 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, self.target, self.source)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + tcp


class Direction:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.rate, self.delay, self.loss, self.queue = 0.0, 0.0, 0.0, 0.0
        self.hole = False
        self.sent_at = 0.0  # when the line is free again
        self.flying = collections.deque()  # (arrival, packet)
        self.counts = dict.fromkeys(
            ("packets_in", "bytes_in", "packets_out", "bytes_out", "lost", "full", "holed", "cut"), 0
        )

    def take(self, now, packet):
        self.counts["packets_in"] += 1
        self.counts["bytes_in"] += len(packet)
        if self.hole:
            self.counts["holed"] += 1
            return
        begin = max(now, self.sent_at)
        if begin - now > (self.queue or QUEUE_MS / 1_000) or len(self.flying) >= PACKETS_MAX:
            self.counts["full"] += 1
            return
        self.sent_at = begin + (len(packet) * 8 / self.rate if self.rate else 0.0)
        if self.random.random() < self.loss:
            self.counts["lost"] += 1
            return
        arrival = self.sent_at + self.delay
        if self.flying:
            arrival = max(arrival, self.flying[-1][0])
        self.flying.append((arrival, packet))

    def drop_flying(self, why):
        self.counts[why] += len(self.flying)
        self.flying.clear()
        self.sent_at = 0.0

    def set(self, words):
        for word in words:
            name, _, value = word.partition("=")
            number = float(value)
            if number < 0:
                raise ValueError(f"{name} is negative")
            if name == "rate":
                self.rate = number
            elif name in ("delay", "queue"):
                setattr(self, name, number / 1_000)
            elif name == "loss":
                self.loss = number
            else:
                raise ValueError(f"no `{name}`: rate, delay, loss or queue")


class Emulator:
    def __init__(self, left, right, seed):
        self.devices = {"up": left, "down": right}  # where a direction's packets come from
        self.targets = {"up": right, "down": left}
        self.directions = {name: Direction(f"{seed} {name}") for name in DIRECTIONS}
        self.is_cut = False
        self.alive, self.dead = set(), set()
        self.resets = 0

    def command(self, words):
        verb, rest = words[0], words[1:]
        if verb in ("set", "hole"):
            names = DIRECTIONS if rest[0] == "both" else (rest[0],)
            for name in names:
                direction = self.directions[name]
                if verb == "set":
                    direction.set(rest[1:])
                else:
                    direction.hole = {"on": True, "off": False}[rest[1]]
                    if direction.hole:
                        direction.drop_flying("holed")
        elif verb == "cut":
            if {"reset": True, "keep": False}[rest[0] if rest else "reset"]:
                self.dead |= self.alive
                self.alive.clear()
            self.is_cut = True
            for direction in self.directions.values():
                direction.drop_flying("cut")
        elif verb == "restore":
            self.is_cut = False
        elif verb == "stats":
            counts = {name: direction.counts for name, direction in self.directions.items()}
            return {**counts, "resets": self.resets}
        else:
            raise ValueError(f"no command `{verb}`")
        return {"ok": True}

    def forward(self, now, name, packet):
        direction = self.directions[name]
        # What IPv6 says of itself on a new device is of no interest.
        if packet[0] >> 4 != 4:
            return
        if self.is_cut:
            direction.counts["cut"] += 1
            return
        segment = Segment.of(packet)
        if segment is not None:
            if segment.opens():
                self.dead.discard(segment.flow)
            elif segment.flow in self.dead:
                if not segment.resets() and segment.flags & 0x10:
                    self.resets += 1
                    self.write(self.devices[name], segment.reset())
                return
            if len(self.alive) < FLOWS_MAX:
                self.alive.add(segment.flow)
        direction.take(now, packet)

    def write(self, device, packet):
        try:
            os.write(device, packet)
            return True
        except OSError:
            # The device is down, or who reads it does not keep up.
            return False

    def deliver(self, now):
        """Hands over what has arrived; when the next arrives."""
        next_at = None
        for name, direction in self.directions.items():
            while direction.flying and direction.flying[0][0] <= now:
                _, packet = direction.flying.popleft()
                if self.write(self.targets[name], packet):
                    direction.counts["packets_out"] += 1
                    direction.counts["bytes_out"] += len(packet)
            if direction.flying:
                at = direction.flying[0][0]
                next_at = at if next_at is None else min(next_at, at)
        return next_at

    def run(self, end_at):
        os.set_blocking(0, False)
        names = {fd: name for name, fd in self.devices.items()}
        said = b""
        while True:
            now = time.monotonic()
            if now > end_at:
                return
            next_at = min(self.deliver(now) or end_at, end_at)
            ready, _, _ = select.select([0, *names], [], [], max(0.0, next_at - time.monotonic()))
            for fd in ready:
                if fd == 0:
                    piece = os.read(0, 4_096)
                    if not piece:
                        return
                    said += piece
                    while b"\n" in said:
                        line, said = said.split(b"\n", 1)
                        words = line.decode().split()
                        if words == ["quit"]:
                            return
                        if words:
                            self.answer(words)
                    continue
                # Some of one side, then the other: neither is starved.
                for _ in range(64):
                    try:
                        packet = os.read(fd, MTU + 64)
                    except BlockingIOError:
                        break
                    except OSError:
                        # The device is down.
                        break
                    self.forward(time.monotonic(), names[fd], packet)

    def answer(self, words):
        try:
            answer = self.command(words)
        except (ValueError, KeyError, IndexError) as error:
            answer = {"error": f"{' '.join(words)}: {error!r}"}
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--left", type=int, required=True)
    parser.add_argument("--right", type=int, required=True)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--seconds-max", type=float, default=3_600)
    arguments = parser.parse_args()
    left, right = open_tun("left0"), open_tun("right0")
    place("left0", arguments.left, "10.77.0.1", "10.77.0.2")
    place("right0", arguments.right, "10.77.0.2", "10.77.0.1")
    print(json.dumps({"ready": True}), flush=True)
    Emulator(left, right, arguments.seed).run(time.monotonic() + arguments.seconds_max)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(1)
