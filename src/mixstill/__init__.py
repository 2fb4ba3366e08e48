"""mixstill: distil image classifiers into vision MLPs with Spatial-channel Token Distillation (ICML 2022).

Importing it registers its models with timm, so that timm's own scripts know them: CycleMLP, the CIFAR ResNets, small
Mixers, and a student `std_NAME` of every vision MLP. The names below are imported when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixstill.version import __version__ as __version__

if TYPE_CHECKING:
    from mixstill.config import Config as Config
    from mixstill.distill.classifier import load_classifier as load_classifier
    from mixstill.distill.mutual_information import MutualInformation as MutualInformation
    from mixstill.distill.objective import Objective as Objective
    from mixstill.distill.placement import Placement as Placement
    from mixstill.distill.student import Student as Student
    from mixstill.distill.student import StudentOutput as StudentOutput
    from mixstill.distill.teachers import Teachers as Teachers
    from mixstill.distill.timm_student import TimmStudent as TimmStudent

_HOMES = {
    "Config": "mixstill.config",
    "MutualInformation": "mixstill.distill.mutual_information",
    "Objective": "mixstill.distill.objective",
    "Placement": "mixstill.distill.placement",
    "Student": "mixstill.distill.student",
    "StudentOutput": "mixstill.distill.student",
    "Teachers": "mixstill.distill.teachers",
    "TimmStudent": "mixstill.distill.timm_student",
    "load_classifier": "mixstill.distill.classifier",
}
__all__ = list(_HOMES)


def _is_command() -> bool:
    """Whether this process is the command `mixstill`, by its script or by `python -m mixstill`."""
    script = str((getattr(sys, "argv", None) or [""])[0])
    return Path(script).name in ("mixstill", "mixstill.exe") or ("-m", "mixstill") in pairwise(sys.orig_argv)


# The command registers them when it builds a model, and so answers at once where it needs no PyTorch.
if not _is_command():
    import_module("mixstill.distill.registry")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mixstill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
