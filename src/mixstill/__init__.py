"""mixstill: distil image classifiers into vision MLPs with Spatial-channel Token Distillation (ICML 2022).

The names below are imported when they are first used, so that the command line starts without waiting for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mixstill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
