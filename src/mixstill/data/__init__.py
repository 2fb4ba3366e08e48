"""What a batch is made of: sources, and the splits cut from them."""

from mixstill.data.images import Source, open_image
from mixstill.data.loading import SPLITS, SplitName, load_split, load_splits
from mixstill.data.resident import Resident
from mixstill.data.sources import load_source
from mixstill.data.split import Batch, Corrupt, Request, Split

__all__ = [
    "SPLITS",
    "Batch",
    "Corrupt",
    "Request",
    "Resident",
    "Source",
    "Split",
    "SplitName",
    "load_source",
    "load_split",
    "load_splits",
    "open_image",
]
