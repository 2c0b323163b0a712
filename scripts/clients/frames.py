#!/usr/bin/env python3
"""PyPI's `websockets` speaks frames to a real broker: a codec of its own, written from proto/frame.md alone.

usage: frames.py PROGRAM
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

HELLO, WELCOME, OK, ERROR, CLOSE = 0x01, 0x02, 0x05, 0x06, 0x07
PUBLISH, BATCH, PUBLISH_ACK, PUBLISH_NACK = 0x10, 0x11, 0x12, 0x13
SUBSCRIBE, DELIVER, CONSUME, ACK, PING, PONG = 0x20, 0x22, 0x30, 0x31, 0x70, 0x71


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


def varint(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value):
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def raw(self, n):
        self.at += n
        assert self.at <= len(self.data), "it ends early"
        return self.data[self.at - n : self.at]

    def u8(self):
        return self.raw(1)[0]

    def num(self):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def bytes(self):
        return self.raw(self.num())


def record(channel, payload, ident):
    return ident + text(channel) + b"\0" + bytes([4]) + varint(0) * 3 + b"\0" + text(b"") + text(payload)


def read_record(data):
    r = Reader(data)
    out = {"id": r.raw(16), "channel": r.bytes().decode(), "retain": r.u8(), "priority": r.u8()}
    out["times"] = (r.num(), r.num(), r.num())
    out["encoding"], out["properties"], out["payload"] = r.u8(), r.bytes(), r.bytes()
    assert r.at == len(data)
    return out


class Session:
    def __init__(self, url):
        self.socket = connect(url, subprotocols=["tidegate.v1"], compression=None).__enter__()
        assert self.socket.subprotocol == "tidegate.v1"
        self.sent = self.heard = 0

    def send(self, kind, stream=0, head=b"", payload=b"", split=False):
        header = struct.pack(">HBBHHIII", 0x5447, 1, kind, 0, len(head), len(payload), stream, self.sent)
        self.sent += 1
        frame = header + struct.pack(">I", crc32c(header + head + payload)) + head + payload
        # In WebSocket fragments where that is asked: it is one message all the same.
        self.socket.send([frame[:7], frame[7:30], frame[30:]] if split else frame)

    def next(self):
        while True:
            data = self.socket.recv(timeout=20)
            assert isinstance(data, bytes)
            magic, version, kind, flags, head, payload, stream, sequence, crc = struct.unpack(">HBBHHIIII", data[:24])
            assert (magic, version, flags, sequence) == (0x5447, 1, 0, self.heard), data[:24].hex()
            assert len(data) == 24 + head + payload, "a message is one frame"
            assert crc == crc32c(data[:20] + data[24:])
            self.heard += 1
            if kind == PING:
                self.send(PONG, head=data[24 : 24 + head])
                continue
            return kind, stream, Reader(data[24 : 24 + head]), data[24 + head :]

    def expect(self, kind, stream):
        got, on, head, payload = self.next()
        assert (got, on) == (kind, stream), f"type {got:#04x} on stream {on}: {head.data!r}"
        return head, payload

    def hello(self):
        head = bytes([1, 1]) + text("python") + varint(0) + varint(131072) + varint(1 << 20)
        self.send(HELLO, head=head)
        head, _ = self.expect(WELCOME, 0)
        assert head.u8() == 1
        return head.bytes().decode()


def items(payload, count):
    r = Reader(payload)
    for _ in range(count):
        flags, lane, seq, offset, attempt, stored = r.u8(), r.u8(), r.num(), r.num(), r.num(), r.num()
        yield {"flags": flags, "lane": lane, "seq": seq, "offset": offset, "attempt": attempt, "stored": stored} | read_record(
            r.bytes()
        )
    assert r.at == len(payload)


def run(url):
    s = Session(url)
    print("welcomed by", s.hello())
    # Subscribe to a filter, live.
    s.send(SUBSCRIBE, 3, text("py/+") + b"\0" + varint(0) + b"\0\0")
    s.expect(OK, 3)
    # One publish, in fragments; then a batch.
    one = record("py/one", b"21.5", os.urandom(16))
    s.send(PUBLISH, 1, varint(2) + varint(1) + varint(len(one)), one, split=True)
    many = [record("py/many", b"%d" % n, os.urandom(16)) for n in range(50)]
    s.send(BATCH, 1, varint(2) + varint(2) + varint(50), b"".join(text(r) for r in many))
    # A refusal that is final.
    bad = record("py/+", b"x", bytes(16))
    s.send(PUBLISH, 1, varint(2) + varint(52) + varint(len(bad)), bad)
    acked, heard, nacked = 0, [], None
    while acked < 51 or len(heard) < 51 or nacked is None:
        kind, stream, head, payload = s.next()
        if kind == PUBLISH_ACK:
            assert head.num() == acked + 1
            acked += head.num()
            assert head.num() == 0, "stored"
        elif kind == PUBLISH_NACK:
            nacked = (head.num(), head.num(), head.num())
        else:
            assert (kind, stream) == (DELIVER, 3), kind
            head.num(), head.num()
            heard += [item["payload"] for item in items(payload, head.num())]
    assert heard == [b"21.5"] + [b"%d" % n for n in range(50)]
    assert nacked == (52, 1, 200), nacked
    print("51 published, heard and acknowledged")
    # The same id again is a duplicate.
    s.send(PUBLISH, 1, varint(2) + varint(53) + varint(len(one)), one)
    head, _ = s.expect(PUBLISH_ACK, 1)
    assert (head.num(), head.num(), head.num()) == (53, 1, 1)
    # Consume, acknowledge, go, come back.
    def consume(session):
        head = text("main") + text("py") + varint(0) + varint(0) * 4 + varint(1) + varint(100) + varint(1 << 20)
        session.send(CONSUME, 5, head, text("py/#"))
        session.expect(OK, 5)

    consume(s)
    got = []
    while len(got) < 51:
        head, payload = s.expect(DELIVER, 5)
        head.num()
        first = head.num()
        got += [(first + n, item["seq"]) for n, item in enumerate(items(payload, head.num()))]
    assert [tag for tag, _ in got] == list(range(1, 52))
    s.send(ACK, 5, varint(1) + varint(50))
    s.send(CLOSE, head=varint(0) + text(""))
    try:
        while True:
            s.next()
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1000, closed
    s = Session(url)
    s.hello()
    consume(s)
    head, payload = s.expect(DELIVER, 5)
    head.num(), head.num()
    (last,) = items(payload, head.num())
    assert (last["seq"], last["flags"] & 1, last["payload"]) == (got[50][1], 1, b"49"), last
    print("51 consumed, the unacknowledged one again after coming back")
    # What ends a session is a close code.
    s.socket.send(b"this is no frame")
    try:
        while True:
            s.next()
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 4001 and closed.rcvd.reason.startswith("bad-magic"), closed
    s = Session(url)
    s.socket.send("text")
    try:
        s.next()
        raise AssertionError("text was taken")
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1003, closed
    for options in ({"subprotocols": ["other"]}, {"subprotocols": ["tidegate.v1"], "origin": "http://evil.example"}):
        try:
            connect(url, **options)
            raise AssertionError(f"{options} was let in")
        except InvalidStatus as refused:
            assert refused.response.status_code in (400, 403), refused
    print("what is no frame, text, other protocols and origins are refused")


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "config.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write('listen: {tcp: [], http: ["127.0.0.1:0"]}\n')
        data = os.path.join(folder, "data")
        with open(os.path.join(folder, "log"), "w", encoding="utf-8") as log:
            broker = subprocess.Popen([program, "serve", "--config", config, "--data", data], stderr=log)
        try:
            ready = os.path.join(data, "ready.json")
            until = time.monotonic() + 20
            while not os.path.exists(ready):
                assert broker.poll() is None and time.monotonic() < until, "the broker did not start"
                time.sleep(0.01)
            with open(ready, encoding="utf-8") as file:
                (address,) = json.load(file)["http"]
            run(f"ws://{address}/ws")
        finally:
            broker.kill()
            broker.wait()


main()
