"""Files that are damaged, or written by somebody who means harm: what `scripts/mutate_files.py` does to a whole file.

Each function takes a file's bytes and a generator of random numbers, and gives other bytes. Containers are taken apart
and put together again, so that what is wrong inside is reached: a zip's members have right checksums, a header its
right length.
"""

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import onnx
import yaml
from elftools.elf.elffile import ELFFile
from google.protobuf.message import Message

from tvm_sched.deploy import toolchain

Mutation = Callable[[bytes, random.Random], bytes]

WORDS = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f",
    b"\x80\0\0\0\0\0\0\0",
    b"99999999999999999999",
    b"-1",
    b"\x1b[2J",
    b"]",
)
TEXTS = (
    "",
    "[/x]",
    "[bold red]x",
    "\x1b[2J",
    "a\nb",
    "\u202eb",
    "\0",
    "x" * 5000,
    "../../etc/passwd",
    "é",
    "nan",
    "host",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), True)
DEEP = 3000  # levels, more than Python's readers take
MOST_AT_ONCE = 3


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """A bit turned, a part cut off, cut out or doubled, or bytes put over others."""
    raw = bytearray(content or b"\0")
    for _ in range(rng.randint(1, MOST_AT_ONCE)):
        at, kind = rng.randrange(len(raw) + 1), rng.randrange(6)
        part = rng.randrange(1, 64)
        if kind == 0 and at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and rng.random() < 0.5:
            del raw[at:]
        elif kind == 2:
            word = rng.choice(WORDS)
            raw[at : at + len(word)] = word
        elif kind == 3:
            del raw[at : at + part]
        elif kind == 4:
            raw[at:at] = raw[at : at + part]
        else:
            raw[at:at] = rng.randbytes(part)
    return bytes(raw)


def strange(rng: random.Random) -> Any:
    """A JSON value that nobody expects."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return None
    return rng.choice(([], {}, [[]], {"": None}, [None] * 100, [1, "a"], {"x": [{}]}))


def of_value(value: Any, rng: random.Random) -> Any:
    """JSON in which something is another value, missing, doubled, or under another name."""
    for _ in range(rng.randint(1, MOST_AT_ONCE)):
        value = _once(value, rng)
    return value


def _once(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        changed, kind = dict(value), rng.randrange(10)
        if kind == 0:
            del changed[name]
        elif kind == 1:
            changed[rng.choice(TEXTS)] = changed.pop(name)
        elif kind == 2:
            changed[rng.choice(TEXTS)] = strange(rng)
        else:
            changed[name] = _once(value[name], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        at, kind = rng.randrange(len(value)), rng.randrange(10)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, value[at]]
        return [*value[:at], _once(value[at], rng), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice((value + 1, value * 2, -value, value * 10**6))
    return strange(rng)


def of_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON value of another kind somewhere, one nested too deep, or damaged bytes."""
    kind = rng.randrange(12)
    if kind == 0:
        return b"[" * DEEP + b"]" * DEEP
    if kind == 1:
        at = content.find(b":") + 1
        return content[:at] + b'{"a":' * DEEP + b"1" + b"}" * DEEP + content[at:]
    if kind < 5:
        return of_bytes(content, rng)
    return json.dumps(of_value(json.loads(content), rng), separators=(",", ":")).encode("utf-8", "surrogatepass")


def of_lines(content: bytes, rng: random.Random) -> bytes:
    """Lines of JSON: one of them changed as `of_json` does, gone, doubled, or the last one cut off."""
    lines = content.splitlines(keepends=True)
    at, kind = rng.randrange(len(lines)), rng.randrange(12)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        lines[-1] = lines[-1][: rng.randrange(len(lines[-1]))]
    else:
        lines[at] = of_json(lines[at].rstrip(b"\n"), rng) + b"\n"
    return b"".join(lines)


def of_yaml(content: bytes, rng: random.Random) -> bytes:
    """YAML of other values; with names of itself in itself."""
    kind = rng.randrange(8)
    if kind == 0:
        return b"a: &a [*a, *a]\ncells: *a\n"
    if kind == 1:
        return (
            b"".join(
                b"%s: &%s [%s]\n"
                % (
                    b"abcdefghi"[i : i + 1],
                    b"abcdefghi"[i : i + 1],
                    b", ".join([b"*%s" % b"abcdefghi"[i - 1 : i] if i else b"x"] * 9),
                )
                for i in range(9)
            )
            + content
        )
    if kind == 2:
        return content.replace(
            b": ", rng.choice((b": !!python/object/apply:os.getpid [] #", b": !!binary ", b": 2001-01-01 #")), 1
        )
    if kind < 5:
        return of_bytes(content, rng)
    return yaml.safe_dump(of_value(yaml.safe_load(content), rng), allow_unicode=True).encode("utf-8", "surrogatepass")


def of_text(content: bytes, rng: random.Random) -> bytes:
    """CSV, or any text: a field changed, or bytes."""
    if rng.random() < 0.5:
        return of_bytes(content, rng)
    fields = content.split(b",")
    fields[rng.randrange(len(fields))] = rng.choice(
        (*map(str.encode, TEXTS), b'"', b"1e400", b"-5", b"\n", b"x," * 200)
    )
    return b",".join(fields)


def of_zip(content: bytes, rng: random.Random, inner: Callable[[str], Mutation]) -> bytes:
    """A member changed as `inner` of its name says, gone, doubled, or under another name; or damaged bytes."""
    if rng.random() < 0.4:
        return of_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(each, archive.read(each)) for each in archive.infolist()]
    at, kind, made = rng.randrange(len(members)), rng.randrange(10), io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number, (info, held) in enumerate(members):
            chosen = number == at
            if chosen and kind == 0:
                continue
            name = info.filename
            if chosen and kind == 1:
                name = rng.choice(("../x", "/x", "x" * 300, "[/x]", "\x1b[2J.png", "a/b", name + "/", "weights"))
            archive.writestr(name, inner(name)(held, rng) if chosen and kind > 1 else held, info.compress_type)
    return made.getvalue()


def of_arrays(content: bytes, rng: random.Random) -> bytes:
    """A .npy file: its header's text changed, with its right length, or bytes."""
    if rng.random() < 0.4 or not content.startswith(b"\x93NUMPY\x01"):
        return of_bytes(content, rng)
    (size,) = struct.unpack("<H", content[8:10])
    header, data = content[10 : 10 + size].decode("latin1"), content[10 + size :]
    shapes = ("(1000000000000,)", "(-1,)", "(2, -3)", "()", "(1,) * 10**9", "None", "(" * 300, "(1e9,)", "(0, 3)")
    dtypes = ("|O", "<f2", "<f8", "|S3", "<U5", ">f4", "<c8", "|b1", "<M8[ns]", "|V2", "", "f", "i4,f4", "<f4" * 9)
    changes = [
        lambda: header.replace("(", rng.choice(shapes) + "#", 1),
        lambda: header.replace("<f4", rng.choice(dtypes)),
        lambda: header.replace("False", rng.choice(("True", "None", "2", "[]"))),
        lambda: header.replace("'shape'", rng.choice(("'shap'", "'descr'", "1", "[]"))),
        lambda: of_bytes(header.encode("latin1"), rng).decode("latin1"),
    ]
    text = rng.choice(changes)().encode("latin1")[: 2**16 - 1]
    return content[:8] + struct.pack("<H", len(text)) + text + data


def of_safetensors(content: bytes, rng: random.Random, metadata: Mutation | None = None) -> bytes:
    """A .safetensors file: its header's JSON changed, or the text of its entries that are JSON, or bytes."""
    kind = rng.random()
    if kind < 0.25:
        return of_bytes(content, rng)
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    held = [name for name, text in header.get("__metadata__", {}).items() if text.startswith("{")]
    if held and kind < 0.75:
        name = rng.choice(held)
        changed = of_json(header["__metadata__"][name].encode(), rng)
        header["__metadata__"][name] = changed.decode("utf-8", "replace")
    else:
        header = of_value(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of_gzip(content: bytes, rng: random.Random) -> bytes:
    """A gzip file's content changed, or its bytes."""
    if rng.random() < 0.4:
        return of_bytes(content, rng)
    return gzip.compress(of_bytes(gzip.decompress(content), rng), 1)


def of_manifest(content: bytes, rng: random.Random) -> bytes:
    """A compiled network's manifest changed, where it still fits into its section, and the checksum made right."""
    section = ELFFile(io.BytesIO(content)).get_section_by_name(toolchain.SECTION)
    start, size = section["sh_offset"], section["sh_size"]
    for _ in range(20):
        changed = of_json(section.data(), rng)
        if len(changed) <= size:
            break
    raw = content[:start] + changed[:size].ljust(size) + content[start + size :]
    at = ELFFile(io.BytesIO(raw)).get_section_by_name(toolchain.CHECKSUM)["sh_offset"]
    return raw[:at] + toolchain.checksum(io.BytesIO(raw), at) + raw[at + toolchain.CHECKSUM_BYTES :]


def of_onnx(content: bytes, rng: random.Random) -> bytes:
    """An ONNX model in which a field has another value, is gone or doubled; or damaged bytes."""
    if rng.random() < 0.3:
        return of_bytes(content, rng)
    model = onnx.load_from_string(content)
    for _ in range(rng.randint(1, MOST_AT_ONCE)):
        message = model
        while True:  # down to a random message
            inside = [
                (field, each)
                for field, value in message.ListFields()
                if field.message_type
                for each in (value if field.is_repeated else [value])
            ]
            if not inside or rng.random() < 0.15:
                break
            message = rng.choice(inside)[1]
        _change_field(message, rng)
    return model.SerializeToString()


def _change_field(message: Message, rng: random.Random) -> None:
    fields = [field for field, _ in message.ListFields()] or list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    if rng.random() < 0.25 or field.message_type:
        held = getattr(message, field.name)
        if field.is_repeated and len(held) and rng.random() < 0.5:
            held.append(rng.choice(list(held)))
        elif field.is_repeated and len(held):
            del held[rng.randrange(len(held))]
        else:
            message.ClearField(field.name)
        return
    values: dict[int, tuple] = {
        field.CPPTYPE_STRING: TEXTS,
        field.CPPTYPE_INT64: (0, -1, 1, 2, 3, 7, 2**31, 2**62, -(2**63)),
    }
    values |= {
        field.CPPTYPE_FLOAT: (0.0, -1.0, float("nan"), float("inf"), 1e38),
        field.CPPTYPE_ENUM: (0, 1, 2, 3, 7, 11),
    }
    values |= {field.CPPTYPE_INT32: (0, -1, 1, 2, 6, 7, 16, 99, 2**31 - 1)}
    value = rng.choice(values.get(field.cpp_type, (0, 1)))
    if field.type == field.TYPE_BYTES:
        value = rng.choice((b"", b"\xff" * 7, rng.randbytes(64), str(value).encode()))
    try:
        if not field.is_repeated:
            setattr(message, field.name, value)
        elif held := getattr(message, field.name):
            held[rng.randrange(len(held))] = value
    except (TypeError, ValueError):  # a value that the field cannot have
        message.ClearField(field.name)
