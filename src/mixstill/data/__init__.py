"""What a batch is made of: sources, resident splits, views and batch mixing."""

from mixstill.data.images import Source, open_image
from mixstill.data.loading import SPLITS, Resident, SplitName, load_split, load_splits
from mixstill.data.mixing import Mix, draw_mix, mix_images, mix_targets
from mixstill.data.sources import load_source
from mixstill.data.views import denormalise, normalise, resize, to_float, train_views

__all__ = [
    "SPLITS",
    "Mix",
    "Resident",
    "Source",
    "SplitName",
    "denormalise",
    "draw_mix",
    "load_source",
    "load_split",
    "load_splits",
    "mix_images",
    "mix_targets",
    "normalise",
    "open_image",
    "resize",
    "to_float",
    "train_views",
]
