#!/usr/bin/env python3
"""Checks leaves.jsonl by docs/transparency-log.md alone, with Python's standard library.

With --make it writes the leaves and hashes anew, of the fields that each line has.
"""

import base64
import hashlib
import json
import pathlib
import sys

FILE = pathlib.Path(__file__).with_name("leaves.jsonl")
FIELDS = ("position", "stream_type", "stream_id", "sequence", "event_type", "event_version", "recorded_at")


def canonical(value):
    """RFC 8785, of whole numbers."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        raise ValueError(f"{value} is not a whole number")
    return json.dumps(value, ensure_ascii=False)


def leaf(line):
    members = {name: line[name] for name in FIELDS}
    members["payload"] = json.loads(line["payload"])
    members["metadata"] = json.loads(line["metadata"])
    members["v"] = 1
    return canonical(members)


def leaf_hash(text):
    return base64.b64encode(hashlib.sha256(b"\0" + text.encode()).digest()).decode()


lines = [json.loads(text) for text in FILE.read_text(encoding="utf-8").strip("\n").split("\n")]
if sys.argv[1:] == ["--make"]:
    for line in lines:
        line["leaf"] = leaf(line)
        line["hash"] = leaf_hash(line["leaf"])
    FILE.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
else:
    wrong = [n for n, line in enumerate(lines, 1) if (leaf(line), leaf_hash(line["leaf"])) != (line["leaf"], line["hash"])]
    if wrong:
        sys.exit(f"{FILE.name}: wrong in lines {wrong}")
    print(f"{FILE.name}: {len(lines)} leaves, all as documented")
