"""The short name of a split: another for other samples, the same wherever they lie."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mixstill.config import DataConfig
from mixstill.data import load_split
from mixstill.data.fingerprint import fingerprint
from mixstill.data.resident import Resident
from mixstill.errors import UserError


def resident(**changes) -> Resident:
    pixels = torch.arange(6 * 3 * 4 * 4).remainder(251).to(torch.uint8).view(6, 3, 4, 4)
    held = Resident(pixels, torch.tensor([0, 1, 0, 1, 0, 1]), torch.arange(5), ("a", "b"), (0.5,) * 3, (0.2,) * 3)
    return replace(held, **changes)


def test_a_held_split_goes_by_its_pixels_labels_order_and_classes() -> None:
    pixels, labels = resident().pixels.clone(), resident().labels.clone()
    known = fingerprint(resident())
    assert len(known) == 16
    assert fingerprint(resident(pixels=pixels.clone(), mean=(0.1,) * 3)) == known
    pixels[4, 0, 0, 0] += 1
    assert fingerprint(resident(pixels=pixels)) != known
    pixels[4, 0, 0, 0] -= 1
    pixels[5] = 0  # is not in this split
    assert fingerprint(resident(pixels=pixels)) == known
    labels[2] = 1
    assert fingerprint(resident(labels=labels)) != known
    assert fingerprint(resident(ids=torch.tensor([0, 1, 2, 4, 5]))) != known
    alike = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    places = [torch.tensor(ids) for ids in ([0, 1], [2, 3])]  # of samples that are the same
    assert len({fingerprint(resident(pixels=alike, ids=ids)) for ids in places}) == 2
    assert fingerprint(resident(classes=("b", "a"))) != known


@pytest.mark.parametrize("most", [1, 100, 150])
def test_much_that_is_held_is_taken_little_by_little(monkeypatch, most) -> None:
    known = fingerprint(resident())
    monkeypatch.setattr("mixstill.data.fingerprint._BYTES", most)
    assert fingerprint(resident()) == known


@pytest.fixture
def write(tmp_path):
    """Writes a folder data set, and gives its train split, streamed."""

    def make(folder: str, names: dict[str, list[str]], **options):
        for split in ("train", "test"):
            for label, files in names.items():
                (tmp_path / folder / split / label).mkdir(parents=True)
                for file in files:
                    pixels = np.full((8, 8, 3), 100, dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / folder / split / label / file)
        config = DataConfig(dataset="folder", data_dir=str(tmp_path / folder), workers=0, **options)
        return load_split(config, "train", "cpu", 8)

    return make


def test_a_streamed_split_goes_by_names_and_labels_wherever_it_lies(write) -> None:
    known = fingerprint(write("one", {"ant": ["1.png", "2.png"], "bee": ["3.png", "4.png"]}))
    assert fingerprint(write("a/much/longer/path", {"ant": ["1.png", "2.png"], "bee": ["3.png", "4.png"]})) == known
    assert fingerprint(write("two", {"ant": ["1.png", "2.png"], "bee": ["3.png", "5.png"]})) != known
    assert fingerprint(write("three", {"ant": ["1.png"], "bee": ["2.png", "3.png", "4.png"]})) != known
    assert fingerprint(write("four", {"ant": ["1.png", "2.png"], "cat": ["3.png", "4.png"]})) != known
    part = write("five", {"ant": ["1.png", "2.png"], "bee": ["3.png", "4.png"]}, samples_per_class=1)
    assert fingerprint(part) != known


def test_streamed_samples_of_other_numbers_are_others(write, monkeypatch) -> None:
    split = write("one", {"ant": ["1.png", "2.png", "3.png"]})
    monkeypatch.setattr(type(split.photos), "name", lambda self, index: "/x/alike")
    assert len({fingerprint(replace(split, ids=torch.tensor(ids))) for ids in ([0, 1], [0, 2])}) == 2


def test_of_many_names_some_are_taken_from_all_over(write, monkeypatch) -> None:
    names = [f"{number}.png" for number in range(9)]
    split = write("one", {"ant": names})
    read = []
    monkeypatch.setattr("mixstill.data.fingerprint._NAMES", 4)
    monkeypatch.setattr(type(split.photos), "name", lambda self, index: read.append(index) or f"/x/{index}")
    fingerprint(split)
    assert read == [0, 3, 6]


def test_samples_in_an_order_of_their_own_have_none() -> None:
    class Feed:
        classes = ("a",)

    with pytest.raises(UserError, match=r"data.dataset: its samples come in an order of their own"):
        fingerprint(Feed())
