"""The sizes that the paper prints of its students (Li et al., "Spatial-channel Token Distillation for Vision MLPs",
ICML 2022, the comparison on ImageNet): 1000 classes, 224 pixels, one token module for each of two teachers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row: millions of parameters, and G multiply-adds of one image (FLOPs in the paper), without and with modules.

    `backbone` is what timm knows the paper's `student` by.
    """

    student: str
    backbone: str
    plain_params: float
    params: float
    plain_macs: float
    macs: float


PAPER = (
    Published("Mixer-S16", "mixer_s16_224", 18.5, 22.2, 3.8, 4.3),
    Published("Mixer-B16", "mixer_b16_224", 59.9, 66.7, 12.7, 13.7),
    Published("ResMLP-S24", "resmlp_24_224", 30.0, 32.5, 6.0, 6.2),
    Published("ResMLP-B24/16", "resmlp_big_24_16_224", 115.7, 122.6, 23.0, 24.1),
    Published("CycleMLP-B1", "cyclemlp_b1_224", 15.2, 18.4, 2.1, 2.2),
    Published("CycleMLP-B2", "cyclemlp_b2_224", 26.8, 30.1, 3.9, 4.0),
)
