"""How a sample is varied and a batch mixed: batched on the device, each draw a function of (seed, epoch, sample id)."""

from mixstill.views.convert import denormalise, normalise, resize, to_float
from mixstill.views.crops import crop_words, rrc_boxes
from mixstill.views.erasing import erase
from mixstill.views.mixing import Mix, draw_mix, mix_images, mix_targets
from mixstill.views.pipeline import check, train_views

__all__ = [
    "Mix",
    "check",
    "crop_words",
    "denormalise",
    "draw_mix",
    "erase",
    "mix_images",
    "mix_targets",
    "normalise",
    "resize",
    "rrc_boxes",
    "to_float",
    "train_views",
]
