"""`mixstill predict SOURCE IMAGE...`: class names with probabilities."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path

from mixstill.checks import MOST_PIXELS
from mixstill.errors import RunError, UserError
from mixstill.files import to_json
from mixstill.overrides import parse
from mixstill.paths import path_of
from mixstill.telling import plain, tell

USAGE = """usage: mixstill predict SOURCE IMAGE... [--top N] [--json] ...

SOURCE is a run directory, a weights file, a timm name or a hub id.
IMAGE is a file, a folder (its image files, those of its folders too, by name), a pattern in quotes as 'photos/*.jpg',
or - for paths on standard input, one a line. An image that cannot be read is told on standard error, the others are
answered all the same, and the exit code is 2.

  --model NAME      architecture of a weights file that does not tell it
  --input-size N    resize the weights to images of N pixels per side [its own size]
  --mean M --std S  three numbers each that images are normalised by [the weights' own]
  --top N           classes per image [5]
  --use-ema         take the moving average of the weights
  --device D        auto, cpu, cuda or cuda:N [auto]
  --json            one JSON object per image: image, classes, probabilities
"""


def main(argv: list[str]) -> None:
    """Classify each image by the average of the heads and print its likeliest classes."""
    line = parse(argv, flags=("json", "use-ema"), values=("model", "top", "device", "input-size"))
    options = line.options
    if len(line.words) < 2:
        raise UserError(f"predict: takes a SOURCE and one IMAGE or more, got {' '.join(line.words) or 'none'}")
    for section, values in line.config.items():
        for name in values:
            if (section, name) not in (("data", "mean"), ("data", "std")):
                raise UserError(f"predict: does not take the config field {section}.{name}")
    top = line.whole("top") or 5

    import torch

    from mixstill.data import open_image
    from mixstill.distill.classifier import load_classifier, seen_as
    from mixstill.distill.student import prediction
    from mixstill.train.device import pick_device
    from mixstill.views import normalise, to_float

    source, *words = line.words
    classifier = load_classifier(
        source, model=options.get("model"), ema="use-ema" in options, input_size=line.whole("input-size", MOST_PIXELS)
    )
    facts, device = seen_as(classifier.facts, line.config.get("data", {})), pick_device(options.get("device", "auto"))
    model = classifier.model.to(device)
    names = facts.classes or [str(index) for index in range(facts.num_classes)]
    answered, unread = 0, list[str]()
    for image in paths(words):
        try:
            content = open_image(Path(image), facts.input_size, classifier.crop_pct)
        except UserError as error:
            if words == [image]:
                raise
            tell(f"mixstill: {error}")
            unread.append(image)
            continue
        answered += 1
        with torch.no_grad():
            logits = prediction(model(normalise(to_float(content.to(device)).unsqueeze(0), facts.mean, facts.std)))
        if not bool(logits.isfinite().all()):
            raise RunError(f"{image}: what {classifier.name} answers is not finite")
        best = logits[0].float().softmax(-1).topk(min(top, facts.num_classes))
        classes = [names[index] for index in best.indices.tolist()]
        probabilities = best.values.tolist()
        if "json" in options:
            print(to_json({"image": image, "classes": classes, "probabilities": probabilities}))
        else:
            shown = "  ".join(f"{name} {share:.3f}" for name, share in zip(classes, probabilities, strict=True))
            print(plain(f"{image}: {shown}"))
    if unread:
        raise UserError(f"predict: {len(unread)} of {answered + len(unread)} images cannot be read")


def paths(words: Iterable[str]) -> Iterator[str]:
    """The image files that the words stand for, in their order; each as soon as it is asked for.

    Raises `UserError` for a folder without images, a pattern that nothing is like, and standard input without paths.
    """
    for word in words:
        path, found = path_of(word, "image"), False
        if word == "-" and sys.stdin is None:
            raise UserError("predict: '-' takes paths on standard input, which is closed")
        if word == "-":
            named: Iterable[str] = (text for text in (line.rstrip("\r\n") for line in sys.stdin) if text)
        elif has_magic(word) and not path.exists():
            named = sorted(glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        else:
            named = (str(path) if word.startswith("~") else word,)
        for name in named:
            for image in _inside(Path(name)) if _is_folder(name) else (name,):
                found = True
                yield image
        if not found:
            raise UserError(f"predict: {word!r} stands for no image{' on standard input' if word == '-' else ''}")


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # as of a name that is too long: it is told when it is opened
        return False


def _inside(folder: Path) -> Iterator[str]:
    """The image files in a folder and in those in it, by name; what is hidden is left out."""
    from torchvision.datasets.folder import is_image_file

    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and is_image_file(file.name) and file.is_file():
            yield str(file)
