"""timm's own `MlpMixer` in more sizes: Mixers for small images, and ResMLP-B24 with patches of 16 pixels.

The forms S and B are those of the paper's table 1 (Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision",
NeurIPS 2021); ResMLP is Touvron et al.'s ("ResMLP: Feedforward networks for image classification with data-efficient
training", 2021), whose B24 timm has only with patches of 8.
Unlike timm's own entries these take every argument of `MlpMixer`, the ones that set their size included.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

from mixstill.normalisation import CIFAR100, IMAGENET

# img_size and patch_size in pixels; the token MLP is embed_dim / 2 wide, the channel MLP 4 embed_dim.
SIZES: dict[str, dict[str, Any]] = {
    "mixer_s4_32": {"img_size": 32, "patch_size": 4, "num_blocks": 8, "embed_dim": 512},
    "mixer_b4_32": {"img_size": 32, "patch_size": 4, "num_blocks": 12, "embed_dim": 768},
    "mixer_micro_32": {"img_size": 32, "patch_size": 4, "num_blocks": 4, "embed_dim": 64},
    "mixer_digits": {"img_size": 8, "patch_size": 2, "num_blocks": 4, "embed_dim": 64},
    "resmlp_big_24_16_224": {"img_size": 224, "patch_size": 16, "num_blocks": 24, "embed_dim": 768},
}
# What makes a Mixer a ResMLP: affine layers for norms, a linear layer for the token MLP, and layer scale, whose initial
# value for B24 is that of the authors' code.
_RESMLP: dict[str, Any] = {
    "mlp_ratio": 4,
    "block_layer": partial(ResBlock, init_values=1e-6),
    "norm_layer": Affine,
}


def _cfg(
    pixels: int, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...], crop_pct: float = 1.0
) -> dict[str, Any]:
    return {
        "input_size": (3, pixels, pixels),
        "fixed_input_size": True,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": mean,
        "std": std,
        "num_classes": num_classes,
        "first_conv": "stem.proj",
        "classifier": "head",
    }


_CIFAR = _cfg(32, 100, *CIFAR100)
_DIGITS = _cfg(8, 10, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# timm's `register_model` looks its entries up here.
default_cfgs = generate_default_cfgs(
    {
        "mixer_s4_32": _CIFAR,
        "mixer_b4_32": _CIFAR,
        "mixer_micro_32": _CIFAR,
        "mixer_digits": _DIGITS,
        "resmlp_big_24_16_224": _cfg(224, 1000, *IMAGENET, crop_pct=0.875),
    }
)


def _mixer(name: str, pretrained: bool, kwargs: dict[str, Any]) -> MlpMixer:
    features = {"out_indices": 3, "feature_cls": "getter"}
    return build_model_with_cfg(MlpMixer, name, pretrained, feature_cfg=features, **SIZES[name] | kwargs)


@register_model
def mixer_s4_32(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """Mixer-S/4 for 32 pixels: 64 tokens, 17.2 M parameters."""
    return _mixer("mixer_s4_32", pretrained, kwargs)


@register_model
def mixer_b4_32(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """Mixer-B/4 for 32 pixels: 64 tokens, 57.4 M parameters."""
    return _mixer("mixer_b4_32", pretrained, kwargs)


@register_model
def mixer_micro_32(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """A small Mixer for 32 pixels, to try things out: 64 tokens, 0.2 M parameters."""
    return _mixer("mixer_micro_32", pretrained, kwargs)


@register_model
def mixer_digits(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """A small Mixer for scikit-learn's digits, 8 pixels, as RGB: 16 tokens, 0.1 M parameters."""
    return _mixer("mixer_digits", pretrained, kwargs)


@register_model
def resmlp_big_24_16_224(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """ResMLP-B24/16: 196 tokens, 115.7 M parameters; published top-1 81.0."""
    return _mixer("resmlp_big_24_16_224", pretrained, _RESMLP | kwargs)
