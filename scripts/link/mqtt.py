"""As much MQTT 3.1.1 as it takes to fill a Mosquitto, to bridge it to another, and to see when its backlog is through."""

import os
import select
import socket
import struct
import subprocess
import time

from net import Failed, die_with_parent, end, wait_for


def varint(number):
    out = b""
    while True:
        number, low = number >> 7, number & 127
        out += bytes([low | (128 if number else 0)])
        if not number:
            return out


def packet(kind, body):
    return bytes([kind]) + varint(len(body)) + body


def text(value):
    data = value.encode()
    return struct.pack("!H", len(data)) + data


COUNT = "$SYS/broker/publish/messages/received"


class Mqtt:
    """One connection; blocking."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.send(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(name)))
        if self.next()[0] != 0x20:
            raise Failed("Mosquitto did not let us in")

    def send(self, data):
        self.socket.sendall(data)

    def next(self):
        """The next packet: its first byte and its body."""
        while True:
            size, shift, at = 0, 0, 1
            while at < len(self.buffer):
                size |= (self.buffer[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if self.buffer[at - 1] < 128:
                    if len(self.buffer) >= at + size:
                        kind, body = self.buffer[0], self.buffer[at : at + size]
                        self.buffer = self.buffer[at + size :]
                        return kind, body
                    break
            got = self.socket.recv(65_536)
            if not got:
                raise Failed("Mosquitto closed the connection")
            self.buffer += got

    def subscribe(self, channels):
        self.send(packet(0x82, struct.pack("!H", 1) + text(channels) + b"\x00"))
        if self.next()[0] != 0x90:
            raise Failed("Mosquitto did not subscribe us")

    def publish_all(self, channel, payloads, window=1_000):
        """QoS 1, at most so many unacknowledged; returns when all are acknowledged."""
        head, sent, acked, held = text(channel), 0, 0, b""
        self.socket.setblocking(False)
        out, source, done = b"", iter(payloads), False
        while not (done and acked == sent):
            while not out and not done and sent - acked < window:
                pieces = []
                for _ in range(min(100, window - (sent - acked))):
                    payload = next(source, None)
                    if payload is None:
                        done = True
                        break
                    pieces.append(packet(0x32, head + struct.pack("!H", sent % 65_535 + 1) + payload))
                    sent += 1
                out = b"".join(pieces)
            readable, writable, _ = select.select([self.socket], [self.socket] if out else [], [], 60)
            if writable:
                out = out[self.socket.send(out) :]
            if readable:
                got = self.socket.recv(65_536)
                if not got:
                    raise Failed("Mosquitto closed the connection")
                held += got
                # Nothing but acknowledgements of four bytes comes here.
                acked += len(held) // 4
                held = held[len(held) // 4 * 4 :]
        self.socket.setblocking(True)
        return sent

    def close(self):
        self.socket.close()


class Mosquitto:
    """A broker that keeps everything in memory and syncs nothing."""

    def __init__(self, place, name, port, inflight, bridge_to=None):
        bridge = ""
        if bridge_to is not None:
            bridge = f"""
connection up
address 127.0.0.1:{bridge_to}
topic # out 1
cleansession false
remote_clientid edge
restart_timeout 1
notifications false
try_private true
bridge_protocol_version mqttv311
"""
        config = place.write(
            f"{name}.conf",
            f"""listener {port} 127.0.0.1
allow_anonymous true
user {os.environ.get("USER") or "root"}
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages {inflight}
sys_interval 1
log_dest none
{bridge}""",
        )
        self.process = subprocess.Popen(
            [program(), "-c", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        self.port = port
        wait_for("Mosquitto listens", self.listens, 20)

    def listens(self):
        if self.process.poll() is not None:
            raise Failed(f"Mosquitto does not start: exit code {self.process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def close(self):
        end(self.process)


def program():
    return next((path for path in ("/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto") if os.access(path, os.X_OK)), None)


def seconds_to_drain(place, ports, payloads, inflight):
    """Backlog at one Mosquitto while the other is away; seconds from the first message's arrival at the other to the last's."""
    edge = Mosquitto(place, "mosquitto-edge", ports[0], inflight, ports[1])
    hub = None
    try:
        publisher = Mqtt(ports[0], "publisher")
        publisher.publish_all("mark/first", [b"first"])
        publisher.publish_all("site/lines", payloads)
        publisher.publish_all("mark/last", [b"last"])
        publisher.close()
        hub = Mosquitto(place, "mosquitto-hub", ports[1], inflight)
        ear = Mqtt(ports[1], "ear")
        ear.subscribe("mark/#")
        times = {}
        while "last" not in times:
            kind, body = ear.next()
            if kind & 0xF0 == 0x30:
                size = struct.unpack_from("!H", body)[0]
                times[body[2 + size :].decode()] = time.monotonic()
        # That all of them came, by its own count.
        ear.subscribe(COUNT)
        end_at = time.monotonic() + 10
        while True:
            kind, body = ear.next()
            if body[2:].startswith(COUNT.encode()) and int(body[2 + len(COUNT) :]) >= len(payloads) + 2:
                break
            if time.monotonic() > end_at:
                raise Failed(f"only {body[2 + len(COUNT) :].decode()} of {len(payloads)} came")
        ear.close()
        if "first" not in times:
            raise Failed("the bridge was through before anybody listened")
        return times["last"] - times["first"]
    finally:
        edge.close()
        if hub is not None:
            hub.close()
