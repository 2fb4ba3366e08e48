"""`mixstill strip RUN OUT`: the plain student, as a timm checkpoint."""

from __future__ import annotations

from dataclasses import asdict

from mixstill.errors import UserError
from mixstill.files import to_json
from mixstill.overrides import parse
from mixstill.paths import path_of
from mixstill.telling import showing

USAGE = """usage: mixstill strip RUN OUT [--model NAME] [--use-ema] [--json]

Takes the token modules off a student and writes what is left: a checkpoint that timm loads without mixstill, and whose
logits are those of the student's class head (with a distillation token, of the class and the token on average).
RUN is a run directory or a weights file. OUT.safetensors is a file of the weights alone; any other OUT is a folder in
the layout of timm's hub, with the architecture and the preprocessing.

  --model NAME  architecture of a weights file that does not tell it (std_..., trained by timm's own script)
  --use-ema     take the moving average of the weights
  --json        one JSON object: path, architecture, params, student_params, load, stock
"""


def main(argv: list[str]) -> None:
    """Strip one student."""
    line = parse(argv, flags=("json", "use-ema"), values=("model",))
    if len(line.words) != 2 or line.config:
        raise UserError(f"strip: takes RUN and OUT, got {' '.join([*line.words, *line.config]) or 'none'}")

    from mixstill.distill.classifier import load_classifier
    from mixstill.distill.strip import strip

    source, out = line.words
    if not out:
        raise UserError("strip: '' is no place to write to; name a file or a folder as OUT")
    classifier = load_classifier(source, model=line.options.get("model"), ema="use-ema" in line.options)
    stripped = strip(classifier, path_of(out, "strip"))
    if "json" in line.options:
        print(to_json(asdict(stripped)))
        return
    sizes = f"{stripped.params:,} of the student's {stripped.student_params:,}"
    with showing():
        print(f"{stripped.path}: {stripped.architecture}, {sizes}")
        print(stripped.load)
