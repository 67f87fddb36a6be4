#!/usr/bin/env python3
"""Checks an export by docs/transparency-log.md, docs/export.md and the RFCs that they name alone, with Python's standard library.

    check_export.py EXPORT KEY [CHECKPOINT ...]

EXPORT is JSON Lines, CSV or OCSF, with a filter or without one; KEY a verifier key; each CHECKPOINT a file with a signed note of a tree that
the export must be consistent with. Of JSON Lines every line is hashed anew from its members, the root is held against what was signed, and
so are the signatures, the manifest and each checkpoint. Of CSV and OCSF, whose lines are in the clear, the manifest is held against all
bytes, against the numbers of the lines, and against the checkpoint in the file.
"""

import base64
import csv
import datetime
import hashlib
import io
import json
import pathlib
import sys

# ---- Ed25519 (RFC 8032, section 6): verification only, slow and plain. -----------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def add(a, b):
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    e, f = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    g, h = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    result = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = add(result, point)
        point = add(point, point)
        number >>= 1
    return result


def equal(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        raise ValueError("no point")
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - x2) % P or (x == 0 and sign):
        raise ValueError("no point")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = point(bytes.fromhex("58" + "66" * 31))


def ed25519(key, message, signature):
    if len(signature) != 64:
        return False
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    return s < L and equal(times(s, BASE), add(point(r), times(h, point(key))))


# ---- Signed notes and checkpoints (C2SP). ----------------------------------------------------------------------------------------


def verified(note, vkey):
    """The text of a note that the key has signed."""
    name, key_id, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded)
    if key[0] != 1 or len(key) != 33:
        raise ValueError("the key is not of Ed25519")
    if hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_id:
        raise ValueError("the key has another id")
    text, signatures = note.rsplit("\n\n", 1)
    for line in signatures.strip("\n").split("\n"):
        dash, signer, encoded = line.split(" ")
        signature = base64.b64decode(encoded)
        if dash == "—" and signer == name and signature[:4].hex() == key_id:
            if ed25519(key[1:], (text + "\n").encode(), signature[4:]):
                return text + "\n"
            raise ValueError("a signature does not fit")
    raise KeyError("the key has not signed it")


def key_id(vkey):
    return vkey.split("+", 2)[1]


class Trust:
    """The keys that are believed, each with the sizes that it may sign: from `first`, and up to `last` once it has handed over."""

    def __init__(self, vkey):
        self.keys = [[vkey, 0, None]]

    def follow(self, notes):
        for note in notes:
            text = note.split("\n\n", 1)[0]
            head, origin, new, old_id, at, first, last = text.split("\n")
            assert head == "entrybook log key v1" and new.split("+", 1)[0] == origin, "a hand-over has another form"
            datetime.datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ")
            first, last = int(first), int(last)
            assert text.endswith(f"\n{first}\n{last}") and first <= last + 1, "a hand-over has another form"
            for old in self.keys:
                if key_id(old[0]) == old_id and old[0].split("+", 1)[0] == origin:
                    verified(note, old[0])
                    verified(note, new)
                    assert old[2] is None and first >= old[1], "a key hands over out of its turn"
                    assert all(new != key[0] for key in self.keys), "a key comes back"
                    old[2] = last
                    self.keys.append([new, first, None])
                    break

    def text(self, note, may):
        """The text of a note that a key has signed which may."""
        for vkey, first, last in self.keys:
            if may(first, last):
                try:
                    return verified(note, vkey)
                except KeyError:
                    continue
        raise ValueError("the key has not signed it")

    def checkpoint(self, note):
        size = int(note.split("\n", 2)[1])
        text = self.text(note, lambda first, last: first <= size and (last is None or size <= last))
        origin, size, root = text.split("\n")[:3]
        return origin, int(size), base64.b64decode(root)

    def manifest(self, note, size):
        return self.text(note, lambda first, last: last is None or size <= last)


# ---- Leaves and the tree (RFC 8785, RFC 9162). -----------------------------------------------------------------------------------

MEMBERS = ["event_type", "event_version", "metadata", "payload", "position", "recorded_at", "sequence", "stream_id", "stream_type", "v"]


def canonical(value):
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        raise ValueError(f"{value} is not a whole number")
    return json.dumps(value, ensure_ascii=False)


def node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """Grown from the left: the roots of its complete subtrees, with their heights."""

    def __init__(self):
        self.size, self.edge, self.roots = 0, [], {}

    def push(self, height, digest):
        if self.size % (1 << height):
            raise ValueError("a subtree in the wrong place")
        self.size += 1 << height
        while self.edge and self.edge[-1][0] == height:
            digest = node(self.edge.pop()[1], digest)
            height += 1
        self.edge.append((height, digest))
        self.roots[self.size] = self.root()

    def root(self):
        if not self.edge:
            return hashlib.sha256().digest()
        *rest, (_, root) = self.edge
        for _, left in reversed(rest):
            root = node(left, root)
        return root


def subtrees(first, last):
    """The heights of the fewest complete subtrees over the leaves from `first` to before `last`."""
    while first < last:
        height = (last - first).bit_length() - 1
        if first:
            height = min(height, (first & -first).bit_length() - 1)
        yield height
        first += 1 << height


def split(encoded):
    data = base64.b64decode(encoded, validate=True)
    assert len(data) % 32 == 0, "hashes have 32 bytes each"
    return [data[i : i + 32] for i in range(0, len(data), 32)]


COLUMNS = (
    "position,time,recorded_at,event,outcome,person_id,person,actor_kind,actor_id,actor,session,address,user_agent,identifier,"
    "stream,sequence,request_id"
).split(",")


def csv_row(cells):
    """A record as docs/export.md says: quoted where it has to be, and nowhere else (RFC 4180)."""
    quoted = ['"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell for cell in cells]
    return (",".join(quoted) + "\r\n").encode()


def csv_records(data):
    """Each record as it stands in the file, and its cells."""
    record, quoted = b"", False
    for line in (part + b"\n" for part in data.split(b"\n")[:-1]):
        record += line
        quoted ^= line.count(b'"') % 2 == 1
        if not quoted and line.endswith(b"\r\n"):
            (cells,) = csv.reader(io.StringIO(record.decode(), newline=""), strict=True)
            assert csv_row(cells) == record and len(cells) == len(COLUMNS), "a record has another form"
            yield record, cells
            record = b""
    assert not record and data.endswith(b"\r\n"), "the export is cut off"


def of_csv(data):
    """The digest of all before the last record, the numbers of the lines, and the notes of the last record."""
    digest, positions, end = hashlib.sha256(), [], None
    for number, (record, cells) in enumerate(csv_records(data)):
        assert end is None, "a record follows the end"
        if number == 0:
            assert cells == COLUMNS, "there is no header"
        elif cells[0] == "end":
            assert not any(cells[4:]), "the end has another form"
            end = cells[1], cells[2], json.loads(cells[3] or "[]")
            continue
        else:
            positions.append(int(cells[0]))
        digest.update(record)
    return digest, positions, end, None


def of_ocsf(data):
    digest, positions, end, made_at = hashlib.sha256(), [], None, None
    assert data.endswith(b"\n"), "the export is cut off"
    for line in data.split(b"\n")[:-1]:
        assert end is None, "a line follows the end"
        event = json.loads(line)
        notes = event.get("unmapped", {})
        if "entrybook_manifest" in notes:
            names = {"entrybook_manifest", "entrybook_checkpoint", "entrybook_hand_overs"}
            assert set(notes) <= names and event["class_uid"] == 0 and "sequence" not in event["metadata"]
            written = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
            assert written == line, "the end has another form"
            end = notes["entrybook_manifest"], notes["entrybook_checkpoint"], notes.get("entrybook_hand_overs", [])
            made_at = event["time"], event["metadata"]["log_name"]
            continue
        positions.append(event["metadata"]["sequence"])
        digest.update(line + b"\n")
    return digest, positions, end, made_at


def table(form, data, vkey, others):
    digest, positions, end, made = {"csv": of_csv, "ocsf": of_ocsf}[form](data)
    assert end, "the export is cut off"
    manifest, checkpoint, hand_overs = end
    trust = Trust(vkey)
    trust.follow(hand_overs)
    size = int(manifest.split("\n")[2].split(" ")[1])
    head, origin, between, lines, root, made_at, of_all, query, rest = trust.manifest(manifest, size).split("\n")
    assert head == f"entrybook export {form} v2" and rest == "", "the manifest is of another form"
    assert of_all == base64.b64encode(digest.digest()).decode(), "the manifest is of another file"
    first, last = map(int, between.split(" "))
    assert int(lines) == len(positions), "the manifest counts other lines"
    ascending = all(a < b for a, b in zip(positions, positions[1:]))
    assert ascending and all(first <= position <= last for position in positions), "a line stands in the wrong place"
    query = json.loads(query)
    if query is None or list(query) == ["after"]:
        assert positions == list(range(first, last + 1)), "lines are left out, and the file names no filter"
    at = datetime.datetime.strptime(made_at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc)
    if made:
        assert made == ((at - datetime.datetime.fromtimestamp(0, datetime.timezone.utc)) // datetime.timedelta(milliseconds=1), origin)
    assert trust.checkpoint(checkpoint) == (origin, last, base64.b64decode(root)), "the checkpoint is of another book"
    held = 0
    for other in others:
        other_origin, other_size, other_root = trust.checkpoint(pathlib.Path(other).read_text(encoding="utf-8"))
        assert other_origin == origin and other_size <= last, "a checkpoint is of another log, or of more lines"
        if other_size == last:
            assert base64.b64encode(other_root).decode() == root, f"the book is not the one that was signed of {last} lines"
            held += 1
    print(f"{len(positions)} of {last} lines, as they were written and signed by {origin}; consistent with {held} other checkpoints")


def main(path, vkey, *others):
    with pathlib.Path(path).open("rb") as file:
        begin = file.read(20)
    for form, mark in (("csv", b"position,"), ("ocsf", b'{"activity_id":')):
        if begin.startswith(mark):
            return table(form, pathlib.Path(path).read_bytes(), vkey, others)
    return lines_of_json(path, vkey, *others)


def lines_of_json(path, vkey, *others):
    tree, digest, lines, waiting, end, header = Tree(), hashlib.sha256(), 0, [], None, None
    with pathlib.Path(path).open("rb") as file:
        if not file.read(1).startswith(b"{"):
            sys.exit("This is no export.")
    for line in pathlib.Path(path).open("rb"):
        assert line.endswith(b"\n") and end is None, "a line has no end, or follows the end"
        text = line[:-1]
        if text.startswith(b'{"event_type":'):
            leaf = json.loads(text)
            assert list(leaf) == MEMBERS and leaf["v"] == 1, "a leaf has other members"
            assert canonical(leaf).encode() == text, "a leaf is not in canonical form"
            datetime.datetime.strptime(leaf["recorded_at"], "%Y-%m-%dT%H:%M:%S.%fZ")
            assert leaf["position"] == tree.size + 1, f"line {leaf['position']} stands in the wrong place"
            found = hashlib.sha256(b"\0" + text).digest()
            assert waiting and waiting.pop(0) == found, f"line {leaf['position']} has another hash"
            tree.push(0, found)
            lines += 1
            digest.update(line)
            continue
        assert not waiting, "lines of a run are missing"
        control = json.loads(text)
        if "export" in control:
            header = control["export"]
            assert tree.size == 0 and header["v"] == 1
        elif "run" in control:
            assert control["run"]["first"] == tree.size + 1
            waiting = split(control["run"]["hashes"])
            assert len(waiting) <= 256
        elif "gap" in control:
            gap = control["gap"]
            assert gap["first"] == tree.size + 1
            heights, hashes = list(subtrees(tree.size, gap["last"])), split(gap["hashes"])
            assert len(heights) == len(hashes) > 0, "a gap has the wrong number of hashes"
            for height, found in zip(heights, hashes):
                tree.push(height, found)
        elif "end" in control:
            end = control["end"]
            members = [name for name in ("manifest", "checkpoint", "hand_overs") if end.get(name)]
            written = {"end": {name: end[name] for name in members}}
            written = json.dumps(written, ensure_ascii=False, separators=(",", ":"))
            assert written.encode() == text, "the end has another form"
            continue
        else:
            raise ValueError("a line that is none of an export")
        digest.update(line)
    assert header and end and not waiting, "the export is cut off"

    trust = Trust(vkey)
    trust.follow(end.get("hand_overs", []))
    origin, size, root = trust.checkpoint(end["checkpoint"])
    assert (origin, size, root) == (header["origin"], tree.size, tree.root()), "the checkpoint is of another book"
    manifest = ["entrybook export v1", origin, str(size), str(lines)]
    manifest += [base64.b64encode(part).decode() for part in (root, digest.digest())]
    assert trust.manifest(end["manifest"], size) == "\n".join(manifest) + "\n", "the manifest is of another file"
    if header.get("filter") is None:
        assert lines == size, "lines are left out, and the file names no filter"
    held = 0
    for other in others:
        other_origin, other_size, other_root = trust.checkpoint(pathlib.Path(other).read_text(encoding="utf-8"))
        assert other_origin == origin and other_size <= size, "a checkpoint is of another log, or of more lines"
        if other_size in tree.roots:
            assert tree.roots[other_size] == other_root, f"the book is not the one that was signed of {other_size} lines"
            held += 1
    print(f"{lines} of {size} lines, as they were signed by {origin}; consistent with {held} other checkpoints")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2].count("+") < 2:
        sys.exit(__doc__)
    if not __debug__:
        sys.exit("Python leaves the checks out with -O, or PYTHONOPTIMIZE: run it without.")
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"{error}")
    except Exception as error:  # whatever a forged file can lead to
        sys.exit(f"NOT as it was signed: {error}" if str(error) else "NOT as it was signed: the file has another form")
