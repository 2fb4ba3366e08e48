"""Hostile command lines by kind. Each is a function of its draws, the whole things of a world and an empty folder."""

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fuzz_values import (
    NUMBERS,
    TEXTS,
    a_trap,
    damage,
    damaged,
    damaged_recipe,
    odd_text,
    traps,
    value,
    with_header,
    wrong_value,
)
from fuzz_world import World, copied

from mixstill import cli
from mixstill.overrides import ALIASES
from mixstill.schema import fields

Make = Callable[[random.Random, World, Path], list[str]]
KEYS = (
    *("num_blocks", "embed_dim", "mlp_ratio", "img_size", "patch_size", "in_chans", "drop_rate"),
    *("num_classes", "x", "depth"),
)


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
    how = draw.choice((wrong_value, wrong_value, wrong_value, odd_text, odd_text, damaged_recipe, a_trap))
    if how is a_trap:
        path.symlink_to(draw.choice(list(traps(folder).values())))
    else:
        path.write_bytes(how(draw))
    return [draw.choice(("train", "train", "check", "demo")), str(path), "--output", str(folder / "out"), "--json"]


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
        damage(draw, draw.choice(sorted(path for path in place.rglob("*") if path.is_file())), folder)
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
        word = value(draw)
        elsewhere = word.startswith((".", "/", "~")) or "*" in word  # folders that are not the test's own
        return ["predict", str(world.run), str(path) if elsewhere else word, "--json", "--device", "cpu"]
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
            damage(draw, path, folder)
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
        damage(draw, draw.choice(images), folder)
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
        damage(draw, path, folder)
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
