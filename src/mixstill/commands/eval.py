"""`mixstill eval SOURCE`: top-1, top-5 and loss of any classifier on a split of a data set."""

from __future__ import annotations

from dataclasses import asdict

from mixstill.errors import UserError, unknown
from mixstill.files import to_json
from mixstill.overrides import parse
from mixstill.schema import fields, from_dict, merge, to_dict
from mixstill.stored import DATA
from mixstill.unused import refuse_unused

USAGE = """usage: mixstill eval SOURCE [--dataset D] [--data-dir P] [--split S] [--head H] [--json] ...

SOURCE is a run directory, a weights file, a timm name or a hub id.

  --model NAME         architecture of a weights file that does not tell it
  --dataset D          digits, cifar10, cifar100, folder or a scheme of timm [the run's own]
  --data-dir P         where it lies [the run's own]
  --split S            test, val or train [test; val where the data have no test part]
  --val-fraction F     share of train that val is [the run's own]
  --mean M --std S     three numbers each that images are normalised by [the weights' own]
  --input-size N       resize the weights to images of N pixels per side [its own size]
  --head H             average, class or distill [average where there are distillation heads]
  --space S            average in logit or probability space [logit]
  --use-ema            take the moving average of the weights
  --eval-batch-size N  samples at once [512]
  --device D           auto, cpu, cuda or cuda:N [auto]
  --amp                bfloat16 autocast
  --json               one JSON object: top1, top5, loss, n, head, model, split, dataset
"""
SPLITS = ("train", "val", "test")
SPACES = ("logit", "probability")
FIELDS = (
    *(name for name in fields() if name.startswith("data.")),
    "train.device",
    "train.eval_batch_size",
    "train.amp",
)


def main(argv: list[str]) -> None:
    """Evaluate one classifier and print its score."""
    line = parse(argv, flags=("json", "use-ema"), values=("model", "split", "head", "space"))
    options = line.options
    if len(line.words) != 1:
        raise UserError(f"eval: takes one SOURCE, got {' '.join(line.words) or 'none'}")
    for section, values in line.config.items():
        for name in values:
            if f"{section}.{name}" not in FIELDS:
                raise UserError(f"eval: does not take the config field {section}.{name}; it takes {', '.join(FIELDS)}")
    split, space = options.get("split"), options.get("space", "logit")
    if split not in (None, *SPLITS):
        raise unknown("split", split, SPLITS)
    if space not in SPACES:
        raise unknown("space", space, SPACES)

    from mixstill.data import load_split, measured
    from mixstill.distill.classifier import load_classifier, seen_as
    from mixstill.distill.naming import matched
    from mixstill.train.device import command_settings, pick_device
    from mixstill.train.evaluate import evaluate

    classifier = load_classifier(
        line.words[0],
        model=options.get("model"),
        ema="use-ema" in options,
        input_size=from_dict(line.config).data.input_size,
    )
    trained = {} if classifier.config is None else {"data": to_dict(classifier.config)["data"]}
    if classifier.stored is not None:
        classifier.stored.check(DATA, line.config)
    cropped = {"data": {"crop_pct": classifier.crop_pct}}
    if not trained and "dataset" not in line.config.get("data", {}):
        raise UserError(f"eval: {classifier.name!r} does not tell its data set; name it with --dataset")
    config = from_dict(merge(trained or cropped, line.config))
    refuse_unused(config, line.config)
    data = config.data
    split = split or measured(data)[-1]
    for name in () if split == "train" else ("samples_per_class", *(("val_fraction",) if split == "test" else ())):
        if name in line.config.get("data", {}):
            raise UserError(f"data.{name}: {getattr(data, name)!r} has no effect on the split {split}")
    facts = seen_as(classifier.facts, line.config.get("data", {}))
    device = pick_device(config.train.device)
    resident = load_split(data, split, device, facts.input_size)
    if len(resident.classes) != facts.num_classes:
        raise UserError(
            f"eval: {classifier.name} has {facts.num_classes} classes, but {data.dataset} has {len(resident.classes)}; "
            "name the data of its classes by --dataset and --data-dir"
        )
    order = matched(facts.classes, resident.classes)
    differing = facts.differing_class(resident.classes) if trained and order is None else None
    if differing is not None:
        raise UserError(
            f"eval: {classifier.name} was trained on other classes: {differing} in {data.dataset}; "
            "name the data of its classes by --dataset and --data-dir"
        )
    with command_settings(config.train):
        scores = evaluate(
            classifier.model.to(device),
            resident,
            mean=facts.mean,
            std=facts.std,
            input_size=facts.input_size,
            batch_size=config.train.eval_batch_size,
            amp=config.train.amp,
            space=space,
            order=order,
        )
    head = options.get("head", "average" if "average" in scores else "class")
    if head not in scores:
        raise unknown("head", head, scores)
    score = scores[head]
    if "json" in options:
        about = {"head": head, "model": classifier.name, "split": split, "dataset": data.dataset}
        print(to_json(asdict(score) | about))
    else:
        print(score)
