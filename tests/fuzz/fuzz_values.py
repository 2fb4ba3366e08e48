"""What cases are made of: odd words, damaged bytes and recipes, and files that must not be opened."""

import json
import os
import random
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from fuzz_world import TINY

from mixstill.schema import from_dict, to_dict

NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "0.5", "-0.0", "1e-320", "1e-9", "1.5", "1e3", "1e308", "1e400", "-1e400"),
    *("nan", "NaN", ".nan", "inf", "-inf", ".inf", "Infinity", "0x10", "0b11", "1_000", "1:30", "\uff11\uff12"),
    *("\xb2", "2147483647", "2147483648", "9223372036854775808", "18446744073709551616", "9" * 400, "9" * 5000),
    *("1" + "0" * 5000, "1/2", "1/0", "1e", "--1", "+1", "0o7", "true", "1 2", "1,2", "[1, 2]", "0x" + "f" * 5000),
)
TEXTS = (
    *("", " ", "x", "none", "null", "~", "true", "yes", "last", "auto", "digits", ".", "..", "/", "a/b", "a" * 300),
    *("a" * 5000, "\x00", "a\x00b", "\udcff", "\ud800", "\ufeff", "\u202e", "\xe9", "\U0001f600", "\n", "a\nb"),
    *("\x1b[31m", "%s", "{}", "$(touch x)", "~nobody-here/x", "/dev/zero", "/dev/stdin", "/proc/self/mem", "loop"),
    *("pipe", "../../x", "'", '"', "'a b", "@", "@@", "a@", "hfds/x", "wds/", "torch/x", "folder", "cifar10"),
    *("cuda:99", "cuda:999999999999999999999999999999", "mps", "meta", "rand-m9-mstd0.5-inc1", "rand-m" + "9" * 5000),
    *("rand-n-1", "rand-m1e400", "augmix-m3", "3a", "*", "[", "(?", "hf-hub:", "local-dir:x", "!!int x", "{a: 1}"),
    *("[1, [2, [3]]]", "&a [*a]", "- x", "? x", "1" * 5000, "resnet18", "mixer_digits", "std_mixer_digits"),
)


def traps(folder: Path) -> dict[str, Path]:
    """What must not be opened, and what leads nowhere."""
    made = {name: folder / name for name in ("pipe", "socket", "loop", "dangling", "zero", "empty", "inner")}
    if not made["pipe"].exists():
        os.mkfifo(made["pipe"])
        with socket.socket(socket.AF_UNIX) as listener, suppress(OSError):  # its path may be too long
            listener.bind(str(made["socket"]))
        made["loop"].symlink_to(made["loop"])
        made["dangling"].symlink_to(folder / "nowhere")
        made["zero"].symlink_to("/dev/zero")
        made["empty"].write_bytes(b"")
        made["inner"].mkdir()
    return made


def value(draw: random.Random) -> str:
    """Any word."""
    return draw.choice(draw.choice((NUMBERS, TEXTS)))


def wrong_value(draw: random.Random) -> bytes:
    raw: Any = json.loads(json.dumps(to_dict(from_dict(TINY))))
    odd = (
        None,
        True,
        [],
        {},
        [[]],
        {"a": {"b": []}},
        -1,
        2**70,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        [1, "x"],
        {1: 2},
    )
    for _ in range(draw.choice((1, 1, 2))):
        section = draw.choice(list(raw))
        if draw.random() < 0.15 or not isinstance(raw[section], dict) or not raw[section]:
            raw[draw.choice((section, "x", "base"))] = draw.choice(odd)
        elif draw.random() < 0.1:
            raw[section][draw.choice(("x", 3, None))] = draw.choice(odd)
        else:
            name = draw.choice(list(raw[section]))
            raw[section][name] = draw.choice((*odd, draw.choice(NUMBERS), draw.choice(TEXTS)))
    return yaml.safe_dump(raw, allow_unicode=False).encode()


def a_trap(draw: random.Random) -> bytes:
    raise AssertionError("it stands for a trap")


def odd_text(draw: random.Random) -> bytes:
    laughs = "a: &a [x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    texts = (
        laughs,
        "train: &t {epochs: 1}\noptim: *t\n",
        "train: {<<: {epochs: 1}, epochs: 2}\n",
        "train: {epochs: 1}\ntrain: {epochs: 2}\n",
        "train: {epochs: 1, epochs: 2}\n",
        "model: {kwargs: {a: 1, a: 2}}\n",
        "train: " + "[" * 100_000,
        "train: " + "{a: " * 3000,
        "model:\n  kwargs:\n" + "".join("  " * (n + 2) + "a:\n" for n in range(300)),
        "x: " + "y" * 1_100_000,
        "train: {seed: " + "9" * 5000 + "}\n",
        "train: {seed: 0x" + "f" * 5000 + "}\n",
        "train: {seed: " + ":59" * 3000 + "}\n",
        "optim: {lr: 1.0e+400}\n",
        "views: {scale: [.nan, 1.0]}\n",
        "views: {ratio: [0.5, .inf]}\n",
        "optim: {opt_betas: [1e400, 0.9]}\n",
        "train: {seed: 2001-99-99}\n",
        "train: {seed: 2001-01-01}\n",
        "? [a, b]\n: 1\n",
        "? {a: b}\n: 1\n",
        "!!python/object/apply:os.system ['touch x']\n",
        "!!binary |\n  R0lG\n",
        "train: !!set {a, b}\n",
        "train: !!int x\n",
        "train: !!float\n",
        "train: !!bool maybe\n",
        "--- {}\n--- {}\n",
        "%YAML 9.9\n---\n{}\n",
        'data: {data_dir: "\\ud800"}\n',
        'data: {data_dir: "a\\0b"}\n',
        "base: r.yaml\n",
        "base: [x]\n",
        "base: digits\ntrain: 3\n",
        "\ufeffa: 1\n",
        "\t\n",
        "*a",
        "&a",
    )
    return draw.choice(texts).encode("utf-8", "surrogatepass")


def damaged_recipe(draw: random.Random) -> bytes:
    return damaged(draw, yaml.safe_dump(to_dict(from_dict(TINY))).encode())


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Bytes with a few changed, taken away, put in, or all of them others."""
    changed = bytearray(content)
    how = draw.randrange(6)
    if how == 0:
        return bytes(changed[: draw.randrange(len(changed) + 1)])
    if how == 1:
        return draw.randbytes(draw.choice((0, 1, 8, 300)))
    if how == 2:
        place = draw.randrange(len(changed) + 1)
        changed[place:place] = draw.choice((b"\0", b"\xff\xfe", b"{", b"9" * 5000, draw.randbytes(30)))
    elif how == 3:
        place = draw.randrange(len(changed) + 1)
        del changed[place : place + draw.choice((1, 8, 200))]
    else:
        for _ in range(draw.choice((1, 1, 4, 40))):
            if changed:
                place = draw.randrange(min(len(changed), draw.choice((64, len(changed)))))
                changed[place] = draw.choice((0, 255, changed[place] ^ (1 << draw.randrange(8))))
    return bytes(changed)


def damage(draw: random.Random, path: Path, folder: Path) -> None:
    """Damage a file, or put something else in its place."""
    if draw.random() < 0.7:
        path.write_bytes(damaged(draw, path.read_bytes()))
        return
    path.unlink()
    if draw.random() < 0.8:
        path.symlink_to(draw.choice(list(traps(folder).values())))


def with_header(draw: random.Random, content: bytes) -> bytes:
    """A safetensors file with something amiss in its header, which is else whole."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["mixstill"])
    odd = draw.choice(
        (None, -1, 0, 10**12, 2**63, 1.5, "x", [], {}, [1], "9" * 5000, True, [0.5] * 3, ["a"] * 10, [None] * 10)
    )
    part = draw.choice(("facts", "facts", "config", "tensor", "text", "size"))
    if part == "facts":
        about["facts"][draw.choice((*about["facts"], "x"))] = odd
    elif part == "config":
        section = draw.choice(list(about["config"]))
        about["config"][section][draw.choice((*about["config"][section], "x"))] = odd
    header["__metadata__"]["mixstill"] = json.dumps(about)
    if part == "text":
        header["__metadata__"]["mixstill"] = draw.choice(
            ("", "[]", "3", "{", "[" * 100_000, "9" * 5000, '{"config": 3}', "NaN", "{}")
        )
    if part == "tensor":
        name = draw.choice([name for name in header if name != "__metadata__"])
        header[name][draw.choice(("dtype", "shape", "data_offsets"))] = draw.choice(
            (odd, [2**62, 2**62], [0, 2**62], "F64", "BOOL")
        )
    text = json.dumps(header).encode()
    told = draw.choice((0, 2**63, 2**40, len(text) - 1)) if part == "size" else len(text)
    return struct.pack("<Q", told) + text + content[8 + size :]
