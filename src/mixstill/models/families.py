"""Which model a foreign state dict belongs to, and that state dict with the model's own names.

Three public families are recognised by their keys: the CIFAR ResNets of chenyaofo/pytorch-cifar-models and
akamaster/pytorch_resnet_cifar10, and ShoufaChen/CycleMLP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
from timm.models import get_pretrained_cfg_value, split_model_name_tag

from mixstill.errors import UserError, unknown
from mixstill.models.cifar_resnet import DEPTHS, STAGES
from mixstill.models.cyclemlp import PUBLISHED
from mixstill.models.renaming import rename_cyclemlp
from mixstill.models.weights import State
from mixstill.normalisation import CIFAR10, CIFAR100, IMAGENET, Normalisation


@dataclass(frozen=True)
class Adapted:
    """What to build for a state dict, and the state dict with that model's names."""

    name: str
    kwargs: dict[str, Any]
    state: State
    normalisation: Normalisation | None
    """Mean and standard deviation per channel that the weights were trained with; None where it is not known."""


# chenyaofo normalises by the data set's own statistics, to be told by the number of classes.
_BY_CLASSES: dict[int, Normalisation] = {
    10: CIFAR10,
    100: CIFAR100,
}


# What the keys of torchvision's classifiers begin with, of VGG to ConvNeXt, ViT and MaxViT.
_TORCHVISION = ("features.", "conv_proj.", "encoder.layers.encoder_layer_", "blocks.0.layers.")


def adapt(name: str | None, state: State, source: str = "weights") -> Adapted:
    """How to build the model that `state` belongs to: one of a known family by its keys, any other by its `name`.

    Args:
        name: timm's name of the model; may be left out for a known family.
        state: Tensors by name.
        source: What to call the weights in a message.

    Raises:
        UserError: No name and an architecture that is not recognised, a name that `state` contradicts, an unknown name,
            or no classifier in `state`.
    """
    if name is not None and not timm.is_model(name):
        raise unknown("model", name, timm.list_models())
    found = infer_cifar_resnet(state, source) or infer_cyclemlp(state, source)
    if name is None:
        if found is None:
            raise UserError(
                f"{source}: its architecture cannot be told from its keys{_torchvision(state)}; name it: --model NAME, "
                f"as a teacher NAME={source}@PLACE"
            )
        return found
    architecture = split_model_name_tag(name)[0]
    if found is not None:
        if architecture != found.name:
            raise UserError(f"{source}: holds a {found.name}, not the {name} that was named")
        return found
    if architecture in DEPTHS:
        raise UserError(f"{source}: holds no CIFAR ResNet, so not the {name} that was named")
    classifier = get_pretrained_cfg_value(architecture, "classifier")
    num_classes = classes_in(state, classifier)
    if num_classes is None:
        raise UserError(f"{source}: has no classifier ({classifier!r}) of a {name}{_torchvision(state)}")
    return Adapted(name, {"num_classes": num_classes}, state, None)


def _torchvision(state: State) -> str:
    """What to say where the keys are those of torchvision."""
    if {"conv1.weight", "bn1.weight", "layer4.0.conv1.weight", "fc.weight"} <= state.keys():
        return " (they are those of torchvision's ResNets, which timm's have too, as resnet50)"
    if any(key.startswith(_TORCHVISION) for key in state):
        return " (they are torchvision's, and timm's models have others: give weights of timm's)"
    return ""


def infer_cifar_resnet(state: State, source: str = "weights") -> Adapted | None:
    """The CIFAR ResNet that `state` belongs to, with its keys renamed to mixstill's; None if it is something else.

    akamaster's classifier is `linear` (shortcut A, ImageNet's normalisation), chenyaofo's `fc` (shortcut B).

    Raises:
        UserError: A CIFAR ResNet of a depth that has no name here.
    """
    foreign = "linear.weight" in state
    weights = {re.sub(r"^linear\.", "fc.", key): tensor for key, tensor in state.items()}
    blocks = [{key.split(".")[1] for key in weights if key.startswith(f"{stage}.")} for stage in STAGES]
    if not _is_cifar_resnet(weights) or len({len(of_stage) for of_stage in blocks}) != 1:
        return None
    depth = 6 * len(blocks[0]) + 2
    name = f"cifar_resnet{depth}"
    if name not in DEPTHS:
        raise UserError(f"{source}: holds a CIFAR ResNet of depth {depth}; there are {', '.join(DEPTHS)}")
    width, in_chans = weights["conv1.weight"].shape[:2]
    num_classes = len(weights["fc.weight"])
    kwargs: dict[str, Any] = {"num_classes": num_classes}
    kwargs["shortcut"] = "B" if "layer2.0.downsample.0.weight" in weights else "A"
    kwargs |= {key: value for key, value, usual in (("width", width, 16), ("in_chans", in_chans, 3)) if value != usual}
    return Adapted(name, kwargs, weights, IMAGENET if foreign else _BY_CLASSES.get(num_classes))


def _is_cifar_resnet(weights: State) -> bool:
    """Whether the stem is 3x3 and just three stages of two convolutions per block are W, 2W and 4W wide."""
    ends = ("conv1.weight", *(f"{stage}.0.conv2.weight" for stage in STAGES), "fc.weight")
    if not all(key in weights for key in ends) or "layer4.0.conv1.weight" in weights:
        return False
    stem, *stages, classifier = (tuple(weights[key].shape) for key in ends)
    if any(shape[2:] != (3, 3) for shape in (stem, *stages)) or "layer1.0.conv3.weight" in weights:
        return False
    width = stem[0]
    return [shape[0] for shape in stages] == [width, 2 * width, 4 * width] and classifier[1:] == (4 * width,)


def infer_cyclemlp(state: State, source: str = "weights") -> Adapted | None:
    """The CycleMLP of ShoufaChen/CycleMLP that `state` belongs to, under our names; None if it is something else.

    Raises:
        UserError: One of a size that has no name here, or without a classifier.
    """
    if "network.0.0.attn.sfc_h.weight" not in state:
        return None
    found = tuple(_cyclemlp_stage(state, f"network.{2 * stage}.") for stage in range(4))
    names = {tuple(zip(*entry.size.values(), strict=True)): name for name, entry in PUBLISHED.items()}
    if found not in names:
        raise UserError(f"{source}: holds a CycleMLP of no known size; there are {', '.join(PUBLISHED)}")
    num_classes = classes_in(state, "head")
    if num_classes is None:
        raise UserError(f"{source}: has no classifier ('head') of a {names[found]}")
    return Adapted(names[found], {"num_classes": num_classes}, rename_cyclemlp(state), IMAGENET)


def _cyclemlp_stage(state: State, prefix: str) -> tuple[int, int, int]:
    """(blocks, channels, expansion of the MLP) of a stage; zeros where there is none."""
    blocks = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    mlp = state.get(f"{prefix}0.mlp.fc1.weight")
    return (0, 0, 0) if mlp is None else (len(blocks), mlp.shape[1], mlp.shape[0] // mlp.shape[1])


def classes_in(state: State, classifier: str | Sequence[str] | None) -> int | None:
    """The number of classes of a classifier, given timm's name of its layer (or layers); None if `state` has none."""
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    weights = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state]
    counts = {weight.shape[0] for weight in weights if weight.ndim}
    return counts.pop() if len(counts) == 1 else None
