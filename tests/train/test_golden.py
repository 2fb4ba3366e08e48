"""The loss curves of 20 steps of whole recipes: what a change of the code that means to change nothing must keep.

The shipped recipes run as they are, at a small size: a small student, two small teachers of random weights, the digits
enlarged and coloured. `MIXSTILL_GOLDEN=write` makes the curves anew.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from mixstill import recipes
from mixstill.data import Resident
from mixstill.distill.classifier import Facts, build_student
from mixstill.distill.objective import Objective
from mixstill.distill.teachers import Teachers
from mixstill.train.batch import Batches
from mixstill.train.optim import learning_rate
from mixstill.train.state import State
from mixstill.train.step import Stepper

STEPS = 20
FOLDER = Path(__file__).parent / "golden"
SMALL = {
    "model": {"name": "mixer_micro_32", "kwargs": {"num_blocks": 3, "embed_dim": 32}},
    "data": {"input_size": 32},
    "optim": {"warmup_epochs": 0.5},
    "train": {"epochs": 2, "batch_size": 24, "ema_decay": 0.99, "ema_warmup": True, "amp": False},
    "mi": {"weight": 0.1, "width": 32},
}


def digits(device: str) -> Resident:
    """240 digits as 32x32 pixels in a colour per class."""
    bunch = load_digits()
    grey = torch.from_numpy(bunch.images[:240] * 15.9).to(torch.uint8)
    large = grey.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    labels = torch.from_numpy(bunch.target[:240]).long()
    tints = torch.stack([labels * 20 + 60, 255 - labels * 15, (labels * 70) % 200 + 50], dim=1)
    pixels = (large.unsqueeze(1).int() * tints[:, :, None, None] // 255).to(torch.uint8)
    names = tuple("0123456789")
    return Resident(pixels.to(device), labels.to(device), torch.arange(240), names, (0.3, 0.3, 0.3), (0.3, 0.3, 0.3))


def curve(recipe: str, teachers: dict[str, str], device: str = "cpu", *, amp: bool = False) -> list[dict[str, float]]:
    placed = [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]
    options = SMALL | {"distill": {"teachers": placed}, "train": SMALL["train"] | {"amp": amp}}
    config = recipes.load(recipe, options)
    data = digits(device)
    facts = Facts(10, data.classes, data.mean, data.std, 32)
    student = build_student(config, 10).to(device).train()
    taught = Teachers(student.placements, facts).to(device)
    objective = Objective(
        config.distill, config.train.smoothing, taught.module_names, taught.module_teacher, taught.names
    )
    state, batches = State.start(config, student), Batches(data, config, 32)
    stepper = Stepper(config, taught, objective)
    found = []
    for step, parts in enumerate(batches.run(0, STEPS)):
        epoch, index = divmod(step, batches.per_epoch)
        rate = learning_rate(config, step, batches.per_epoch, batches.size)
        terms = stepper.step(state, parts, batches.passes, epoch=epoch, index=index, rate=rate)
        if index + 1 == batches.per_epoch:
            terms |= stepper.regularise_epoch(state, batches, epoch)
        terms |= {f"norm/{name}": norm(model) for name, model in (("student", state.student), ("ema", state.ema))}
        found.append({name: round(float(value), 6) for name, value in terms.items()})
    return found


def norm(model: torch.nn.Module) -> torch.Tensor:
    """Of all weights together."""
    return torch.cat([value.detach().flatten() for value in model.parameters()]).norm()


RECIPES = ["cifar100-std", "cifar100-std-r56", "imagenet-std-mixer-s16"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_twenty_steps_of_the_recipe_follow_the_golden_curve(teachers, recipe) -> None:
    found, file = curve(recipe, teachers), FOLDER / f"{recipe}.json"
    if os.environ.get("MIXSTILL_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text("[\n" + ",\n".join(json.dumps(terms) for terms in found) + "\n]\n")
    golden = json.loads(file.read_text())
    assert len(found) == len(golden) == STEPS
    for step, (ours, theirs) in enumerate(zip(found, golden, strict=True)):
        assert ours.keys() == theirs.keys(), step
        assert ours == {name: pytest.approx(value, rel=2e-4, abs=1e-5) for name, value in theirs.items()}, step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("recipe", RECIPES)
def test_cuda_in_bfloat16_follows_the_golden_curve(teachers, recipe) -> None:
    golden = json.loads((FOLDER / f"{recipe}.json").read_text())
    for step, (ours, theirs) in enumerate(zip(curve(recipe, teachers, "cuda", amp=True), golden, strict=True)):
        assert ours["total"] == pytest.approx(theirs["total"], rel=0.03), step
