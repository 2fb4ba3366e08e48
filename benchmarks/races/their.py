"""How other people's programs are driven: unmodified, but for the loader that their `train_one_epoch` is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Any

import torch
from PIL import Image, ImageOps
from session import Session
from task import Task
from torch import Tensor, nn
from torchvision.datasets import CIFAR100

Batch = tuple[Tensor, Tensor]
_POSTERIZE = ImageOps.posterize
_ENDLESS = 10**9  # batches: no program sees the end of its epoch


class Gate:
    """A loader's own batches; between two turns it reports and waits for the next order."""

    def __init__(self, loader: Any, batches: Iterator[Batch], session: Session, about: dict[str, Any]) -> None:
        self.loader, self.batches, self.session, self.about = loader, batches, session, about

    def __iter__(self) -> Iterator[Batch]:
        for steps in self.session.turns(**self.about):
            yield from islice(self.batches, steps)

    def __len__(self) -> int:
        return _ENDLESS

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def epochs(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader, epoch after epoch."""
    while True:
        yield from loader


def taken_over(
    train_one_epoch: Callable[..., Any],
    task: Task,
    session: Session,
    *,
    start: Callable[[nn.Module], None],
    teach: Callable[[dict[str, Any]], Callable[[Tensor], Any]],
) -> Callable[..., Any]:
    """A program's `train_one_epoch` with turns in it, or what the race makes of its arguments.

    Args:
        train_one_epoch: the program's own.
        task: the contender's part.
        session: talks to the harness.
        start: puts the race's starting weights into the program's model.
        teach: from the arguments of `train_one_epoch`, what the program's teachers make of a batch.
    """
    signature = inspect.signature(train_one_epoch)
    device = torch.device(task.device)

    def with_turns(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        name = "loader" if "loader" in given else "data_loader"
        loader, mix = given[name], given["mixup_fn"]
        start(given["model"])
        about = {"parameters": sum(p.numel() for p in given["model"].parameters() if p.requires_grad)}
        if task.race == "views":
            batches = epochs(loader)
            for steps in session.turns():
                for images, targets in islice(batches, steps):
                    images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
                    if mix is not None:
                        mix(images, targets)
        elif task.race == "teacher":
            teacher, (images, _) = teach(given), fixed_batch(task)
            for steps in session.turns():
                for _ in range(steps):
                    teacher(images)
        elif task.race == "student":
            session.shims.append("mixup_fn: None, since the fixed batch comes with its targets")
            given["mixup_fn"] = None
            given[name] = Gate(loader, repeat(fixed_batch(task)), session, about)
        elif task.race == "full":
            given[name] = Gate(loader, epochs(loader), session, about)
        return train_one_epoch(*bound.args, **bound.kwargs)

    return with_turns


def fixed_batch(task: Task, targets: str = "smoothed") -> Batch:
    """The fixed batch: float32 [B,3,32,32], and targets [B,K], smoothed as by their mixup; our loss does it."""
    saved = torch.load(task.path("batch.pt"), map_location=task.device, weights_only=True)
    return saved["images"], saved[targets]


def start_from(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put starting weights into the model in place, by name; what it has besides stays as it is."""
    own = {name.removeprefix("_orig_mod."): parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value.reshape(own[name].shape))


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Pillow's, but for 0 bits."""
    return _POSTERIZE(image, bits) if bits else Image.new(image.mode, image.size)


def surroundings(task: Task, session: Session) -> None:
    """What every program needs here that was written for its authors' machines."""
    CIFAR100.train_list, CIFAR100.test_list = [["train", None]], [["test", None]]
    CIFAR100.meta = CIFAR100.meta | {"md5": None}
    session.shims.append("CIFAR100: no checksums, since the race writes the files itself")
    ImageOps.posterize = posterize
    session.shims.append("PIL.ImageOps.posterize: black for 0 bits, which timm asks for and Pillow 11 began to refuse")
    if task.device == "cpu":
        torch.cuda.synchronize = lambda *_: None
        session.shims.append("torch.cuda.synchronize: nothing, since a CPU has none")
