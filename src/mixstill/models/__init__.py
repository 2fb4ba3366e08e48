"""The backbones that timm lacks, registered with timm by importing this package, and weights in and out of files."""

from mixstill.models import cifar_resnet, cyclemlp, zoo
from mixstill.models.cifar_resnet import CifarResNet
from mixstill.models.cyclemlp import CycleMlp
from mixstill.models.distilled import DistilledMlpMixer
from mixstill.models.families import Adapted, adapt, classes_in
from mixstill.models.weights import Weights, load_into, read_weights, write_weights

__all__ = [
    "Adapted",
    "CifarResNet",
    "CycleMlp",
    "DistilledMlpMixer",
    "Weights",
    "adapt",
    "cifar_resnet",
    "classes_in",
    "cyclemlp",
    "load_into",
    "read_weights",
    "write_weights",
    "zoo",
]
