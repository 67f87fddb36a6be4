#!/usr/bin/env python3
"""Verifies a checkpoint by C2SP signed-note and tlog-cosignature alone, with Python's standard library.

usage: checkpoint.py KEY ... < CHECKPOINT

Each key, of a log (type 1) or of a witness (type 4), must have signed it. Prints what it says, and when witnesses saw it.
"""

import base64
import hashlib
import sys

# Ed25519: RFC 8032, section 5.1.
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def add(a, b):
    x = (a[1] - a[0]) * (b[1] - b[0]) % P
    y = (a[1] + a[0]) * (b[1] + b[0]) % P
    z = 2 * a[3] * b[3] * D % P
    w = 2 * a[2] * b[2] % P
    e, f, g, h = y - x, w - z, w + z, y + x
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(factor, point):
    total = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            total = add(total, point)
        point = add(point, point)
        factor >>= 1
    return total


def point(encoded):
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        sys.exit("a key or a signature is no point of the curve")
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


BASE = point(bytes([0x58]) + bytes([0x66]) * 31)


def verifies(key, message, signature):
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % Q
    left, right = times(s, BASE), add(point(r), times(h, point(key)))
    return not (left[0] * right[2] - right[0] * left[2]) % P and not (left[1] * right[2] - right[1] * left[2]) % P


note = sys.stdin.buffer.read()
text, _, lines = note.rpartition(b"\n\n")
text += b"\n"
signatures = {}
for line in lines.decode().removesuffix("\n").split("\n"):
    dash, name, encoded = line.split(" ")
    blob = base64.b64decode(encoded, validate=True)
    if dash != "\u2014" or (name, blob[:4]) in signatures:
        sys.exit(f"{line!r} is no signature, or the second of its key")
    signatures[name, blob[:4]] = blob[4:]

for text_of_key in sys.argv[1:]:
    name, id, key = text_of_key.split("+", 2)
    key = base64.b64decode(key, validate=True)
    expected = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    if expected.hex() != id or len(key) != 33 or key[0] not in (1, 4):
        sys.exit(f"{text_of_key} is no verifier key")
    signature = signatures.get((name, expected))
    if signature is None:
        sys.exit(f"{name}+{id} has not signed it")
    message, said = text, "signed it"
    if key[0] == 4:
        time = int.from_bytes(signature[:8], "big")
        message, signature = f"cosignature/v1\ntime {time}\n".encode() + text, signature[8:]
        said = f"cosigned it at {time}"
    if not verifies(key[1:], message, signature):
        sys.exit(f"the signature of {name}+{id} does not fit")
    print(f"{name}+{id} {said}")

origin, size, root = text.decode().split("\n")[:3]
print(f"{origin}: {size} lines, root {root}")
