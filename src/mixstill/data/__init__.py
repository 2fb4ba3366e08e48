"""What a batch is made of: sources, and the splits cut from them."""

from mixstill.data.images import Source, open_image
from mixstill.data.loading import load_split, load_splits
from mixstill.data.parts import SPLITS, SplitName, cut, has_test, measured
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
    "cut",
    "has_test",
    "load_source",
    "load_split",
    "load_splits",
    "measured",
    "open_image",
]
