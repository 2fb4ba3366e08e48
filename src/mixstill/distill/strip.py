"""What is left of a student when its modules are taken off: its backbone, as a checkpoint of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from timm.models import get_pretrained_cfg, model_entrypoint
from timm.models import save_for_hf as save_for_timm
from torch import nn

from mixstill.distill.classifier import SEEN, Classifier
from mixstill.distill.sizes import count_parameters
from mixstill.distill.student import Student
from mixstill.errors import RunError, UserError, one_line
from mixstill.files import to_json
from mixstill.models import write_weights
from mixstill.models.create import patch_size, pixels


@dataclass(frozen=True)
class Stripped:
    """What was written: its architecture in timm's words, the numbers learned with and without modules, how to load."""

    path: str
    architecture: str
    params: int
    student_params: int
    load: str
    stock: bool
    """Whether timm builds it by name where mixstill is not installed."""


def strip(classifier: Classifier, out: Path) -> Stripped:
    """Write the backbone of a student to `out` and tell how timm loads it.

    Args:
        classifier: a student of mixstill.
        out: `NAME.safetensors` for the weights alone, else a folder in the layout of timm's hub (`config.json` with the
            architecture, its arguments, classes and preprocessing, and `model.safetensors`).

    Raises:
        UserError: not a student; a place that is taken, or cannot be written to.
    """
    student = classifier.model
    if not isinstance(student, Student):
        raise UserError(f"strip: {classifier.name!r} is no student of mixstill, so there is nothing to take off")
    if out.exists():
        raise UserError(f"strip: {str(out)!r} is there already; choose another OUT")
    backbone, facts = student.backbone, classifier.facts
    cfg = cast(Any, backbone).pretrained_cfg
    architecture, arguments = str(cfg["architecture"]), _arguments(classifier, backbone)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        seen = {"mean": facts.mean, "std": facts.std, "crop_pct": classifier.crop_pct}
        told = {"input_size": (3, pixels(backbone), pixels(backbone)), "num_classes": facts.num_classes} | seen
        names = {} if facts.classes is None else {"label_names": list(facts.classes)}
        if out.suffix == ".safetensors":
            write_weights(out, backbone.state_dict(), {"arch": architecture, SEEN: to_json(told | names)})
        else:
            save_for_timm(
                backbone,
                str(out),
                model_config={"pretrained_cfg": told | names, "num_classes": facts.num_classes} | names,
                model_args=arguments,
                safe_serialization=True,
            )
    except OSError as error:
        raise RunError(f"strip: {str(out)!r} cannot be written: {one_line(error)}") from error
    stock = not model_entrypoint(architecture).__module__.startswith("mixstill")
    return Stripped(
        str(out),
        architecture,
        count_parameters(backbone),
        count_parameters(student),
        _load(out, architecture, {"num_classes": facts.num_classes} | arguments, pixels(backbone), stock),
        stock,
    )


def _arguments(classifier: Classifier, backbone: nn.Module) -> dict[str, Any]:
    """What the architecture must be told besides the number of classes."""
    trained = classifier.config
    told: Mapping[str, Any] = getattr(backbone, "_model_args", {}) if trained is None else trained.model.kwargs
    size = {} if patch_size(backbone) is None else {"img_size": pixels(backbone)}
    return {key: value for key, value in told.items() if key not in ("num_classes", "drop_path_rate")} | size


def _load(out: Path, architecture: str, arguments: Mapping[str, Any], side: int, stock: bool) -> str:
    """The Python that loads it. What is built for a size, but not by `img_size`, timm builds by its cfg."""
    if "img_size" not in arguments and side != cast(Any, get_pretrained_cfg(architecture)).input_size[-1]:
        arguments = {**arguments, "pretrained_cfg_overlay": {"input_size": (3, side, side)}}
    given = "".join(f", {key}={value!r}" for key, value in arguments.items())
    call = (
        f"timm.create_model('{architecture}', checkpoint_path='{out}'{given})"
        if out.suffix == ".safetensors"
        else f"timm.create_model('local-dir:{out}', pretrained=True)"
    )
    return call if stock else f"import mixstill; {call}"
