"""The printed equation: evaluated as it stands, in float64, it is the loss that is trained."""

import itertools
import re

import pytest
import torch
from torch import Tensor

from mixstill.distill.equation import equation
from mixstill.distill.objective import Objective

K, B = 5, 7
MODULES, TEACHERS = ("r32@2/3", "r56@last", "r32@last"), ("r32", "r56")


def logits(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(answers: Tensor) -> Tensor:
    p = answers.softmax(-1)
    return -(p * p.log()).sum(-1)


class Reader:
    """What the words of the equation stand for: [B] each."""

    def __init__(self, lines: list[str], head: Tensor, heads: dict[str, Tensor], answers: dict[str, Tensor]) -> None:
        self.lines, self.heads, self.answers = lines, heads, answers
        self.head, self.labels = head, torch.arange(B) % K

    def value(self, information: dict[str, float]) -> float:
        text = self.lines[0].removeprefix("L = ")
        names: dict[str, Tensor] = {}

        def put(value: Tensor | float) -> str:
            names[f"v{len(names)}"] = torch.as_tensor(value, dtype=torch.float64)
            return f"v{len(names) - 1}"

        text = text.replace("CE(class, y~)", put(-(self.targets() * self.head.log_softmax(-1)).sum(-1)))
        text = re.sub(r"CE\(head (\S+), argmax (\S+)\)", lambda m: put(self.hard(m[1], m[2])), text)
        text = re.sub(
            r"KL\((\S+) at tau (\S+) \|\| head (\S+) at tau (\S+)\)", lambda m: put(self.soft(*m.groups())), text
        )
        text = re.sub(r"I\(T_S; T_C\) @ ([^\s\]]+)", lambda m: put(information[m[1]]), text)
        used = re.findall(r"CE\(head \S+ argmax (\S+?)\)|KL\((\S+) at", self.lines[0])
        taught_by = [hard or soft for hard, soft in used]
        text = re.sub(r"w_(\d)", lambda m: put(self.weights(taught_by)[int(m[1]) - 1]), text)
        text = text.replace("[", "(").replace("]", ")")
        text = re.sub(r"(?<=[\w.)]) (?=[\w(])", " * ", text)
        return float(eval(text, names).mean())

    def targets(self) -> Tensor:
        (line,) = [line for line in self.lines if line.startswith("y~ = ")]
        text = line.partition(";")[0].removeprefix("y~ = ")
        text = re.sub(r"(\S+) y", r"\1 * y", text) if " y" in text else text
        y = torch.nn.functional.one_hot(self.labels, K).double()
        return eval(text, {"y": y, "K": K}) * torch.ones(B, K)

    def weights(self, taught_by: list[str]) -> Tensor:
        (line,) = [line for line in self.lines if line.startswith("w = ")]
        sign = -1 if "of -H(teacher)" in line else 1
        return (sign * torch.stack([entropy(self.answers[name]) for name in taught_by])).softmax(0)

    def hard(self, head: str, teacher: str) -> Tensor:
        decision = self.answers[teacher].argmax(-1, keepdim=True)
        return -self.heads[head].log_softmax(-1).gather(-1, decision).squeeze(-1)

    def soft(self, teacher: str, tau: str, head: str, again: str) -> Tensor:
        p = (self.answers[teacher] / float(tau)).softmax(-1)
        q = (self.heads[head] / float(again)).softmax(-1)
        return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("modules", [0, 1, 3])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("weights", ["confidence", "entropy", "uniform"])
def test_the_equation_gives_the_value_of_the_objective(tiny, modules, kind, weights) -> None:
    for alpha, tau, smoothing in itertools.product((0.0, 0.3, 1.0), (1.0, 2.5), (0.0, 0.1)):
        options = {"alpha": alpha, "tau": tau, "kind": kind, "weights": weights}
        config = tiny({f"distill.{name}": value for name, value in options.items()} | {"train.smoothing": smoothing})
        names, module_teacher = MODULES[:modules], [0, 1, 0][:modules]
        teachers = TEACHERS[: len(set(module_teacher))]
        objective = Objective(config.distill, smoothing, names, module_teacher, teachers)
        head, heads, answers = logits(0, B, K), logits(1, modules, B, K), logits(2, len(teachers), B, K)
        lines = equation(config, names, [teachers[t] for t in module_teacher])
        reader = Reader(lines, head, dict(zip(names, heads, strict=True)), dict(zip(teachers, answers, strict=True)))
        taught = answers if modules else None
        expected = float(objective(head.float(), heads.float(), taught, reader.labels).total)
        assert reader.value({}) == pytest.approx(expected, rel=1e-6), lines


def test_the_regulariser_stands_in_the_loss_or_beside_it(tiny) -> None:
    each = tiny({"mi.weight": 0.25, "distill.alpha": 0.0})
    found = equation(each, MODULES[:2], TEACHERS)
    assert found[0] == "L = 1 CE(class, y~) + 0.25 [I(T_S; T_C) @ r32@2/3 + I(T_S; T_C) @ r56@last]"
    reader = Reader(found, logits(0, B, K), {}, {})
    plain = Reader(["L = CE(class, y~)", *found[1:]], logits(0, B, K), {}, {})
    assert reader.value({"r32@2/3": 2.0, "r56@last": 6.0}) == pytest.approx(plain.value({}) + 0.25 * 8)

    once = equation(tiny({"mi.weight": 1.0, "mi.every": "epoch", "mi.lr": 0.01}), MODULES[:1], TEACHERS[:1])
    assert "I(" not in once[0]
    assert once[1] == "once per epoch, a plain gradient step at the rate 0.01 on 1 [I(T_S; T_C) @ r32@2/3]"


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({}, "y~ = 0.9 y + 0.1 / K; y: the label"),
        ({"mixup": 0.8}, "the label, mixed (mixup 0.8)"),
        ({"mixup": 0.8, "cutmix": 1.0}, "the label, mixed (mixup 0.8 / cutmix 1, switch 0.5)"),
        ({"cutmix_minmax": [0.2, 0.8], "mixup_prob": 0.5}, "mixed (cutmix of sides 0.2-0.8, on 0.5 of the batches)"),
        ({"mixup": 0.8, "mixup_prob": 0.0}, "y: the label"),
    ],
)
def test_the_targets_tell_how_they_are_mixed(tiny, views, words) -> None:
    lines = equation(tiny({f"views.{name}": value for name, value in views.items()}), (), ())
    assert lines[0] == "L = CE(class, y~)"
    assert lines[1].endswith(words)
