#!/usr/bin/env python3
"""Runs kosoku (Autobahn's cases) against the echo server and prints a table; fails where a case failed.

usage: kosoku.py KOSOKU ECHO_SERVER FOLDER
"""

import json
import subprocess
import sys

# Not supported, and documented so (proto/frame.md, section 1): permessage-deflate (RFC 7692) is never negotiated. Payloads are
# compressed end to end instead. Chapters 12 and 13 are about nothing else.
UNSUPPORTED = {"12": "permessage-deflate is not negotiated", "13": "permessage-deflate is not negotiated"}
CHAPTERS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "operations",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close",
    "9": "limits and speed",
    "10": "automatic fragmentation",
    "12": "compression",
    "13": "compression",
}
# NON-STRICT is legal: bad UTF-8 is refused when the message is whole, not at its first bad byte.
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")


def main():
    kosoku, echo, folder = sys.argv[1:]
    server = subprocess.Popen([echo, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        # Its exit code counts what is not implemented as failed: the report is read instead.
        subprocess.run([kosoku, "-p", "4", "-o", folder, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)
        alive = server.poll() is None
    finally:
        server.kill()
        server.wait()
    assert alive, "the echo server ended"
    with open(f"{folder}/index.json", encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    table, failed = {}, []
    for name, case in cases.items():
        chapter = name.split(".")[0]
        row = table.setdefault(chapter, [0, 0, 0])
        behavior = case["behavior"]
        if behavior in PASSED and case["behaviorClose"] in PASSED:
            row[0] += 1
        elif behavior == "UNIMPLEMENTED" and chapter in UNSUPPORTED:
            row[1] += 1
        else:
            row[2] += 1
            failed.append(f"{name}: {behavior}, close {case['behaviorClose']}")
    print(f"{'chapter':34} {'passed':>6} {'unsupported':>11} {'failed':>6}")
    for chapter, (passed, unsupported, bad) in sorted(table.items(), key=lambda row: int(row[0])):
        print(f"{chapter + ' ' + CHAPTERS.get(chapter, ''):34} {passed:6} {unsupported:11} {bad:6}")
    for chapter, why in UNSUPPORTED.items():
        print(f"chapter {chapter}: {why}")
    assert len(cases) > 500, f"only {len(cases)} cases ran"
    if failed:
        sys.exit("\n".join(failed))


main()
