"""`mixstill predict SOURCE IMAGE...`: class names with probabilities."""

from __future__ import annotations

from pathlib import Path

from mixstill.checks import MOST_PIXELS
from mixstill.errors import RunError, UserError
from mixstill.files import to_json
from mixstill.overrides import parse

USAGE = """usage: mixstill predict SOURCE IMAGE... [--top N] [--json] ...

SOURCE is a run directory, a weights file, a timm name or a hub id.

  --model NAME    architecture of a weights file that does not tell it
  --input-size N  resize the weights to images of N pixels per side [its own size]
  --top N         classes per image [5]
  --use-ema       take the moving average of the weights
  --device D      auto, cpu, cuda or cuda:N [auto]
  --json          one JSON object per image: image, classes, probabilities
"""


def main(argv: list[str]) -> None:
    """Classify each image by the average of the heads and print its likeliest classes."""
    line = parse(argv, flags=("json", "use-ema"), values=("model", "top", "device", "input-size"))
    options = line.options
    if len(line.words) < 2:
        raise UserError(f"predict: takes a SOURCE and one IMAGE or more, got {' '.join(line.words) or 'none'}")
    if line.config:
        raise UserError(f"predict: does not take the config field {next(iter(line.config))!r}")
    top = line.whole("top") or 5

    import torch

    from mixstill.data import open_image
    from mixstill.distill.classifier import load_classifier
    from mixstill.distill.student import prediction
    from mixstill.train.device import pick_device
    from mixstill.views import normalise, to_float

    source, *images = line.words
    classifier = load_classifier(
        source, model=options.get("model"), ema="use-ema" in options, input_size=line.whole("input-size", MOST_PIXELS)
    )
    facts, device = classifier.facts, pick_device(options.get("device", "auto"))
    model = classifier.model.to(device)
    names = facts.classes or [str(index) for index in range(facts.num_classes)]
    for image in images:
        pixels = to_float(open_image(Path(image), facts.input_size, classifier.crop_pct).to(device))
        with torch.no_grad():
            logits = prediction(model(normalise(pixels.unsqueeze(0), facts.mean, facts.std)))
        if not bool(logits.isfinite().all()):
            raise RunError(f"{image}: what {classifier.name} answers is not finite")
        best = logits[0].float().softmax(-1).topk(min(top, facts.num_classes))
        classes = [names[index] for index in best.indices.tolist()]
        probabilities = best.values.tolist()
        if "json" in options:
            print(to_json({"image": image, "classes": classes, "probabilities": probabilities}))
        else:
            shown = "  ".join(f"{name} {share:.3f}" for name, share in zip(classes, probabilities, strict=True))
            print(f"{image}: {shown}")
