"""Hostile command lines by kind. Each is a function of its draws, the whole things of a world and an empty folder."""

import json
import os
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from fuzz_world import TINY, World, copied

from mixstill import cli
from mixstill.overrides import ALIASES
from mixstill.schema import fields, from_dict, to_dict

Make = Callable[[random.Random, World, Path], list[str]]

NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "0.5", "-0.0", "1e-320", "1e-9", "1.5", "1e3", "1e308", "1e400", "-1e400"),
    *(
        "nan",
        "NaN",
        ".nan",
        "inf",
        "-inf",
        ".inf",
        "Infinity",
        "0x10",
        "0b11",
        "1_000",
        "1:30",
        "\uff11\uff12",
        "\u00b2",
    ),
    *(
        "2147483647",
        "2147483648",
        "9223372036854775808",
        "18446744073709551616",
        "9" * 400,
        "9" * 5000,
        "1" + "0" * 5000,
    ),
    *("1/2", "1/0", "1e", "--1", "+1", "0o7", "true", "1 2", "1,2", "[1, 2]", "0x" + "f" * 5000),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "none",
        "null",
        "~",
        "true",
        "yes",
        "last",
        "auto",
        "digits",
        ".",
        "..",
        "/",
        "a/b",
        "a" * 300,
        "a" * 5000,
    ),
    *(
        "\0",
        "a\0b",
        "\udcff",
        "\ud800",
        "\ufeff",
        "\u202e",
        "\u00e9",
        "\U0001f600",
        "\n",
        "a\nb",
        "\x1b[31m",
        "%s",
        "{}",
        "$(touch x)",
    ),
    *(
        "~nobody-here/x",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "loop",
        "pipe",
        "../../x",
        "'",
        '"',
        "'a b",
        "@",
        "@@",
        "a@",
    ),
    *(
        "hfds/x",
        "wds/",
        "torch/x",
        "folder",
        "cifar10",
        "cuda:99",
        "cuda:" + "9" * 30,
        "mps",
        "meta",
        "rand-m9-mstd0.5-inc1",
    ),
    *(
        "rand-m" + "9" * 5000,
        "rand-n-1",
        "rand-m1e400",
        "augmix-m3",
        "3a",
        "*",
        "[",
        "(?",
        "hf-hub:",
        "local-dir:x",
        "!!int x",
    ),
    *("{a: 1}", "[1, [2, [3]]]", "&a [*a]", "- x", "? x", "1" * 5000, "resnet18", "mixer_digits", "std_mixer_digits"),
)
KEYS = (
    "num_blocks",
    "embed_dim",
    "mlp_ratio",
    "img_size",
    "patch_size",
    "in_chans",
    "drop_rate",
    "num_classes",
    "x",
    "depth",
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


def made_fields(draw: random.Random, world: World, folder: Path) -> list[str]:
    """One to three fields of the config with odd values, on the command line."""
    traps(folder)
    words = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        leaf = draw.choice(list(fields().values()))
        name = f"model.kwargs.{draw.choice(KEYS)}" if draw.random() < 0.1 else leaf.name
        numeric = leaf.number and draw.random() < 0.8
        given = [draw.choice(NUMBERS) if numeric else value(draw) for _ in range(2 if leaf.many else 1)]
        words += [f"--{name}", *given]
    command = draw.choice(("train", "train", "train", "check", "cache"))
    own = {"train": ["--quiet", "--json"], "check": ["--json", "--steps", "1"], "cache": ["--quiet", "--json"]}[command]
    return [command, str(world.recipe), *words, *own, "--output", str(folder / "out")]


def made_recipe(draw: random.Random, world: World, folder: Path) -> list[str]:
    """A YAML recipe with something amiss in its structure or its bytes."""
    path = folder / "r.yaml"
    how = draw.choice((_wrong_value, _wrong_value, _wrong_value, _odd_text, _odd_text, _bytes, _trap))
    if how is _trap:
        path.symlink_to(draw.choice(list(traps(folder).values())))
    else:
        path.write_bytes(how(draw))
    return [draw.choice(("train", "train", "check", "demo")), str(path), "--output", str(folder / "out"), "--json"]


def _wrong_value(draw: random.Random) -> bytes:
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


def _trap(draw: random.Random) -> bytes:
    raise AssertionError("it stands for a trap")


def _odd_text(draw: random.Random) -> bytes:
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


def _bytes(draw: random.Random) -> bytes:
    return damaged(draw, yaml.safe_dump(to_dict(from_dict(TINY))).encode())


def made_words(draw: random.Random, world: World, folder: Path) -> list[str]:
    """A command with any words behind it."""
    traps(folder)
    commands = [name for name in cli.COMMANDS if name != "reproduce"]
    options = [
        *ALIASES,
        *fields(),
        "json",
        "quiet",
        "output",
        "resume",
        "top",
        "split",
        "head",
        "model",
        "seeds",
        "steps",
        "x",
    ]
    words = [draw.choice((*commands, *commands, "", "x", "--version", "reproduce", draw.choice(TEXTS)))]
    for _ in range(draw.randrange(6)):
        option = f"--{draw.choice(options)}{draw.choice(('', '', '', '=', '=' + value(draw)))}"
        word = draw.choice(
            (value(draw), option, option, draw.choice((str(world.run), str(world.image), "-b", "-x", "--", "-")))
        )
        words += [word] * draw.choice((1, 1, 1, 1, 2))
    if words[0] in ("demo", "train", "check", "cache"):  # of what may happen to be whole only a little is run
        place = [] if len(words) > 1 and not words[1].startswith("-") else [str(world.recipe)]
        words[1:1] = place
        words += ["--output", str(folder / "out"), "--max-steps", "1", "--epochs", "1"]
    if words[0] == "models":
        words.insert(1, draw.choice(("mixer_digits", "std_mixer_digits", "cifar_resnet8", "nothing*")))
    return words


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


def _damage(draw: random.Random, path: Path, folder: Path) -> None:
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


def _source(draw: random.Random, world: World, folder: Path) -> str:
    """A thing that can be no classifier, or hardly."""
    kind = draw.choice(("header", "header", "safetensors", "pickled", "run", "timm", "trap", "garbage", "word"))
    if kind == "word":
        return value(draw)
    if kind == "trap":
        path = folder / f"a{draw.choice(('.safetensors', '.pt', '.onnx', '', '.tar'))}"
        path.symlink_to(draw.choice(list(traps(folder).values())))
        return str(path)
    if kind == "garbage":
        path = folder / f"a{draw.choice(('.safetensors', '.pt', '.pth', '.th', '.bin', '.onnx', '.npz', '.zip', ''))}"
        start = draw.choice(
            (b"", b"PK\x03\x04", b"\x80\x02", b"\x08\x07\x12\x07pytorch", b"<html>", b"\x93NUMPY", b"\x7fELF")
        )
        path.write_bytes(start + draw.randbytes(draw.choice((0, 10, 300))))
        return str(path)
    if kind in ("header", "safetensors"):
        whole = (world.run / "weights.safetensors").read_bytes()
        path = folder / "w.safetensors"
        path.write_bytes(with_header(draw, whole) if kind == "header" else damaged(draw, whole))
        return str(path)
    if kind == "pickled":
        path = folder / "w.pt"
        path.write_bytes(damaged(draw, world.pickled.read_bytes()))
        return str(path)
    place = copied(world.run if kind == "run" else world.folder, folder / "source")
    if kind == "timm" and draw.random() < 0.5:
        about = json.loads((place / "config.json").read_text())
        part = draw.choice((about, about.setdefault("model_args", {}), about["pretrained_cfg"]))
        odd = (
            None,
            -1,
            0,
            10**12,
            "x",
            [],
            {},
            [0.0] * 3,
            [1] * 3,
            float("nan"),
            ["a"] * 10,
            "mixer_digits",
            "resnet18",
        )
        part[draw.choice((*part, "x"))] = draw.choice(odd)
        (place / "config.json").write_text(json.dumps(about))
    else:
        _damage(draw, draw.choice(sorted(path for path in place.rglob("*") if path.is_file())), folder)
    return str(place)


def made_source(draw: random.Random, world: World, folder: Path) -> list[str]:
    """A SOURCE with something amiss, in each way to use one."""
    source = _source(draw, world, folder)
    train = ["train", str(world.recipe), "--quiet", "--json", "--output", str(folder / "out")]
    ways = (
        ["eval", source, "--dataset", "digits", "--json", "--device", "cpu"],
        ["eval", source, "--json", "--device", "cpu", "--model", "mixer_digits"],
        ["predict", source, str(world.image), "--json", "--device", "cpu"],
        ["strip", source, str(folder / "stripped.safetensors"), "--json"],
        [*train, "--init-from", source],
        [*train, "--teachers", f"{source}@last"],
    )
    return draw.choice(ways)


def made_image(draw: random.Random, world: World, folder: Path) -> list[str]:
    """An image that is none, or hardly, for `predict`."""
    path = folder / f"a{draw.choice(('.png', '.jpg', '.gif', '.tif', ''))}"
    kind = draw.randrange(4)
    if kind == 0:
        path.symlink_to(draw.choice(list(traps(folder).values())))
    elif kind == 1:
        whole = world.image.read_bytes()
        sides = struct.pack(">II", *(draw.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)) for _ in range(2)))
        path.write_bytes(whole[:16] + sides + whole[24:])
    elif kind == 2:
        return ["predict", str(world.run), value(draw), "--json", "--device", "cpu"]
    else:
        path.write_bytes(damaged(draw, world.image.read_bytes()))
    return ["predict", str(world.run), str(path), "--json", "--device", "cpu"]


def made_run(draw: random.Random, world: World, folder: Path) -> list[str]:
    """A run directory with something amiss, gone on with or asked."""
    run = copied(world.run, folder / "run")
    for path in draw.sample(sorted(path for path in run.rglob("*") if path.is_file()), draw.choice((1, 1, 2))):
        if path.name == "metrics.jsonl" and draw.random() < 0.6:
            odd = (
                "3",
                "[]",
                "null",
                '{"step": "x"}',
                "{}",
                '{"step": NaN}',
                "[" * 100_000,
                "9" * 5000,
                "\0",
                '{"step": 1e400}',
            )
            path.write_text(f"{draw.choice(odd)}\n{path.read_text()}")
        elif path.name == "summary.json" and draw.random() < 0.6:
            path.write_text(draw.choice(("3", "[]", "{}", '{"complete": 3}', "[" * 100_000, "NaN", "9" * 5000)))
        elif path.name == "weights.safetensors" and draw.random() < 0.6:
            path.write_bytes(with_header(draw, path.read_bytes()))
        else:
            _damage(draw, path, folder)
    again = ["train", "--resume", "--output", str(run), "--quiet", "--json"]
    return draw.choice(
        (
            [*again, "--max-steps", "2"],
            again,
            ["eval", str(run), "--json", "--device", "cpu"],
            ["train", str(world.recipe), "--output", str(run), "--quiet", "--json"],
            ["predict", str(run), str(world.image), "--json", "--device", "cpu"],
        )
    )


def _damage_photos(draw: random.Random, photos: Path, folder: Path) -> None:
    images = sorted(path for path in photos.rglob("*.png") if path.is_file())
    part, kind = photos / draw.choice(("train", "test")), draw.randrange(7)
    trap = draw.choice(list(traps(folder).values()))
    if kind <= 1:
        _damage(draw, draw.choice(images), folder)
    elif kind == 2:
        (part / draw.choice(("cat", "dog")) / f"trap{draw.random()}.png").symlink_to(trap)
    elif kind == 3:
        place = part / draw.choice(("bird", "\udcff", "a b", "-x", ".hidden"))
        copied(images[0], place / draw.choice(("1.png", "\udcfe.png", "1.txt")))
    elif kind == 4:
        part.rename(photos / draw.choice(("x", "valid", f"{part.name}.tar")))
    elif kind == 5:
        part.with_suffix(".tar").write_bytes(draw.choice((b"", draw.randbytes(600), b"\0" * 10240)))
    else:
        part.rename(folder / f"moved{draw.random()}")
        part.symlink_to(trap)


def made_cache(draw: random.Random, world: World, folder: Path) -> list[str]:
    """A folder of teachers' answers with something amiss, replayed from."""
    cache = copied(world.cache, folder / "cache")
    path = draw.choice(sorted(path for path in cache.rglob("*") if path.is_file()))
    if path.name == "cache.json" and draw.random() < 0.6:
        odd = ("3", "[]", "null", "{}", '{"format": NaN}', '{"a": ' * 50_000, "9" * 5000, '"x"', '{"teacher": 3}')
        path.write_text(draw.choice(odd))
    else:
        _damage(draw, path, folder)
    words = ["--teachers", f"{world.run}@last", "--cache", str(cache), "--json", "--output", str(folder / "out")]
    command, *own = draw.choice((["train", "--quiet"], ["cache", "--quiet"], ["check", "--steps", "1"]))
    return [command, str(world.recipe), *own, *words]


def made_folder(draw: random.Random, world: World, folder: Path) -> list[str]:
    """A folder of photos with something amiss, trained on."""
    photos = copied(world.photos, folder / "photos")
    for _ in range(draw.choice((1, 1, 2, 3))):
        with suppress(OSError, IndexError):  # what was to be damaged is not there any more
            _damage_photos(draw, photos, folder)
    data = ["--dataset", "folder", "--data-dir", str(photos), "--input-size", "8", "--data.samples_per_class", "1"]
    corrupt = draw.choice(([], ["--max-corrupt", "9"]))
    held = draw.choice(([], ["--data.resident", "true"]))
    command = draw.choice((["train", "--quiet"], ["train", "--quiet"], ["check", "--steps", "1"]))
    return [
        command[0],
        str(world.recipe),
        *command[1:],
        *data,
        *corrupt,
        *held,
        "--json",
        "--output",
        str(folder / "out"),
    ]


KINDS: dict[str, Make] = {
    "fields": made_fields,
    "recipes": made_recipe,
    "words": made_words,
    "sources": made_source,
    "images": made_image,
    "runs": made_run,
    "folders": made_folder,
    "caches": made_cache,
}


def draws(seed: int, number: int) -> tuple[str, random.Random]:
    """The kind of a case, and its draws."""
    kind = list(KINDS)[number % len(KINDS)]
    return kind, random.Random(f"{seed} {kind} {number}")
