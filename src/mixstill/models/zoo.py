"""timm's own `MlpMixer` in more sizes: Mixer, ResMLP and gMLP for small images or with a distillation token.

Mixer's forms S and B are those of table 1 of Tolstikhin et al. ("MLP-Mixer: An all-MLP Architecture for Vision",
NeurIPS 2021), ResMLP's S12 to B24 those of Touvron et al. ("ResMLP: Feedforward networks for image classification with
data-efficient training", 2021), gMLP's Ti and S those of Liu et al. ("Pay Attention to MLPs", NeurIPS 2021).
Unlike timm's own entries these take every argument of `MlpMixer`, the ones that set their size included.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from timm.data.constants import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import GatedMlp
from timm.models import build_model_with_cfg
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock

from mixstill.models.distilled import DistilledMlpMixer
from mixstill.models.entries import Entry, register
from mixstill.normalisation import CIFAR100, IMAGENET, Normalisation

# As timm normalises for Mixer and gMLP; for ResMLP by ImageNet's statistics.
_HALF: Normalisation = (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)


def _entry(
    about: str,
    pixels: int,
    patch: int,
    num_classes: int,
    normalisation: Normalisation,
    size: dict[str, Any],
    crop_pct: float = 1.0,
) -> Entry:
    cfg = {
        "input_size": (3, pixels, pixels),
        "fixed_input_size": True,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": normalisation[0],
        "std": normalisation[1],
        "num_classes": num_classes,
        "first_conv": "stem.proj",
        "classifier": "head",
    }
    return Entry(about, cfg, {"img_size": pixels, "patch_size": patch} | size)


def _at_8(about: str, size: dict[str, Any]) -> Entry:
    return _entry(about, 8, 2, 10, _HALF, size)


def _at_32(about: str, size: dict[str, Any]) -> Entry:
    return _entry(about, 32, 4, 100, CIFAR100, size)


def _at_224(about: str, size: dict[str, Any], normalisation: Normalisation = _HALF) -> Entry:
    return _entry(about, 224, 16, 1000, normalisation, size, crop_pct=0.875)


def _mixer(blocks: int, channels: int) -> dict[str, Any]:
    """The token MLP is C / 2 wide, the channel MLP 4 C."""
    return {"num_blocks": blocks, "embed_dim": channels}


def _resmlp(blocks: int, channels: int, scale: float) -> dict[str, Any]:
    """Affine layers for norms, a linear layer for the token MLP, and layer scale, which starts at `scale`.

    The authors' starts are 0.1 for S12, 1e-5 for S24, 1e-6 for S36 and B24; timm's differ for S12, 1e-4.
    """
    block = partial(ResBlock, init_values=scale)
    return _mixer(blocks, channels) | {"mlp_ratio": 4, "block_layer": block, "norm_layer": Affine}


def _gmlp(blocks: int, channels: int) -> dict[str, Any]:
    """One MLP of 6 C, half of which gates the other half across the tokens."""
    return _mixer(blocks, channels) | {"mlp_ratio": 6, "block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp}


PLAIN = {
    "mixer_s4_32": _at_32("Mixer-S/4 for 32 pixels: 64 tokens, 17.2 M parameters.", _mixer(8, 512)),
    "mixer_b4_32": _at_32("Mixer-B/4 for 32 pixels: 64 tokens, 57.4 M parameters.", _mixer(12, 768)),
    "mixer_micro_32": _at_32("A small Mixer to try things out: 64 tokens, 0.16 M parameters.", _mixer(4, 64)),
    "mixer_digits": _at_8("A small Mixer for scikit-learn's digits: 16 tokens, 0.14 M parameters.", _mixer(4, 64)),
    "resmlp_s12_224": _at_224(
        "ResMLP-S12 from the authors' layer scale: 196 tokens, 15.4 M parameters; published top-1 76.6.",
        _resmlp(12, 384, 0.1),
        IMAGENET,
    ),
    "resmlp_big_24_16_224": _at_224(
        "ResMLP-B24/16: 196 tokens, 115.7 M parameters; published top-1 81.0.", _resmlp(24, 768, 1e-6), IMAGENET
    ),
    "resmlp_s12_4_32": _at_32("ResMLP-S12/4: 64 tokens, 14.3 M parameters.", _resmlp(12, 384, 0.1)),
    "resmlp_s24_4_32": _at_32("ResMLP-S24/4: 64 tokens, 28.6 M parameters.", _resmlp(24, 384, 1e-5)),
    "resmlp_micro_32": _at_32("A small ResMLP to try things out: 64 tokens, 0.16 M parameters.", _resmlp(4, 64, 0.1)),
    "gmlp_ti4_32": _at_32("gMLP-Ti/4: 64 tokens, 4.6 M parameters.", _gmlp(30, 128)),
    "gmlp_s4_32": _at_32("gMLP-S/4: 64 tokens, 18.0 M parameters.", _gmlp(30, 256)),
    "gmlp_micro_32": _at_32("A small gMLP to try things out: 64 tokens, 0.18 M parameters.", _gmlp(4, 64)),
}
# timm keeps `resmlp_24_distilled_224` as an old name of a plain ResMLP whose weights were distilled.
DISTILLED = {
    "mixer_s16_distilled_224": _at_224(
        "Mixer-S/16 with a distillation token: 197 tokens, 19.0 M parameters.", _mixer(8, 512)
    ),
    "mixer_b16_distilled_224": _at_224(
        "Mixer-B/16 with a distillation token: 197 tokens, 60.7 M parameters.", _mixer(12, 768)
    ),
    "resmlp_s24_distilled_224": _at_224(
        "ResMLP-S24 with a distillation token: 197 tokens, 30.4 M parameters.", _resmlp(24, 384, 1e-5), IMAGENET
    ),
    "resmlp_big_24_16_distilled_224": _at_224(
        "ResMLP-B24/16 with a distillation token: 197 tokens, 116.5 M parameters.", _resmlp(24, 768, 1e-6), IMAGENET
    ),
    "gmlp_s16_distilled_224": _at_224(
        "gMLP-S/16 with a distillation token: 197 tokens, 19.7 M parameters.", _gmlp(30, 256)
    ),
    "mixer_s4_distilled_32": _at_32(
        "Mixer-S/4 for 32 pixels with a distillation token: 65 tokens, 17.2 M parameters.", _mixer(8, 512)
    ),
    "mixer_micro_distilled_32": _at_32(
        "A small Mixer with a distillation token to try things out: 65 tokens, 0.17 M parameters.", _mixer(4, 64)
    ),
}
_TWO_HEADS = {"classifier": ("head", "head_dist")}
SIZES = PLAIN | {name: replace(entry, cfg=entry.cfg | _TWO_HEADS) for name, entry in DISTILLED.items()}


def _build(name: str, pretrained: bool, kwargs: dict[str, Any]) -> MlpMixer:
    features = {"out_indices": 3, "feature_cls": "getter"}
    model = DistilledMlpMixer if name in DISTILLED else MlpMixer
    return build_model_with_cfg(model, name, pretrained, feature_cfg=features, **SIZES[name].size | kwargs)


register(__name__, SIZES, _build)
