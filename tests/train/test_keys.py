"""What a teacher's answers depend on: each of it has a cache of its own, and what bends no answer shares one."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from mixstill.data import loading
from mixstill.distill.classifier import load_classifier, save_student
from mixstill.errors import UserError
from mixstill.train.build import build
from mixstill.train.filling import fill
from mixstill.train.progress import Display
from mixstill.train.run import train
from mixstill.train.trial import answers_size


@pytest.fixture(scope="module")
def base(teachers, tmp_path_factory):
    """The options of a run that has filled its cache."""
    folder = tmp_path_factory.mktemp("cache")
    return {
        "distill.teachers": [f"{teachers['small']}@1/2", f"{teachers['large']}@last"],
        "distill.cache": str(folder / "cache"),
        "views.mixup": 0.8,
        "train.epochs": 1,
    }


@pytest.fixture(scope="module")
def filled(base, tiny, tmp_path_factory):
    train(tiny(base), tmp_path_factory.mktemp("run") / "run", quiet=True)
    return base


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"views.mixup": 0.4}, "to other views: views.mixup is 0.8 there, 0.4 here"),
        ({"views.pad": 2}, "to other views: views.pad is 1 there, 2 here"),
        ({"views.scale": [0.2, 1.0]}, "to other views: views.scale is [0.08, 1.0] there, [0.2, 1.0] here"),
        ({"train.seed": 1}, "to other batches: train.seed is 0 there, 1 here"),
        ({"train.batch_size": 8}, "to other batches: train.batch_size is 10 there, 8 here"),
        ({"train.amp": True}, "to other batches: train.amp is False there, True here"),
        ({"data.samples_per_class": 5}, "to other samples: data.images is 40 there, 50 here"),
        ({"data.val_fraction": 0.5}, "to other samples: data.content is "),
        ({"data.input_size": 16}, "to images of another form: student.input_size is 8 there, 16 here"),
        ({"distill.cache_top_k": 3}, "in another form: distill.cache_top_k is None there, 3 here"),
    ],
)
def test_what_bends_answers_has_a_cache_of_its_own(filled, tiny, change, field) -> None:
    with pytest.raises(UserError) as caught:
        build(tiny(filled | change))
    assert str(caught.value).startswith(
        f"distill.cache: {filled['distill.cache']!r} holds the answers of small {field}"
    )
    assert str(caught.value).endswith("; give another folder")


@pytest.mark.parametrize(
    "change",
    [
        {"train.epochs": 7},
        {"train.max_steps": 2},
        {"train.device_batch_size": 4},
        {"model.name": "mixer_micro_32", "model.kwargs": {}, "data.input_size": 8},
        {"distill.kind": "soft", "distill.tau": 3.0, "distill.alpha": 0.9, "distill.weights": "uniform"},
        {"optim.lr": 0.5, "train.smoothing": 0.3, "model.drop_path": 0.2},
        {"distill.teachers": []},
    ],
)
def test_what_bends_no_answer_shares_the_cache(filled, tiny, change) -> None:
    build(tiny(filled | change))


def test_another_teacher_of_the_name_has_a_cache_of_its_own(filled, tiny, teachers, tmp_path) -> None:
    found = load_classifier(teachers["small"])
    changed = copy.deepcopy(found.model)
    changed.backbone.fc.bias.data[0] += 1e-3
    save_student(tmp_path / "small.safetensors", changed, found.config, found.facts)
    with pytest.raises(UserError, match=r"holds the answers of small when it was another: teacher.weights is '\w{16}'"):
        build(tiny(filled | {"distill.teachers": [f"{tmp_path / 'small.safetensors'}@last"]}))
    (tmp_path / "moved").mkdir()
    save_student(tmp_path / "moved" / "small.safetensors", found.model, found.config, found.facts)
    build(tiny(filled | {"distill.teachers": [f"{tmp_path / 'moved' / 'small.safetensors'}@last"]}))


def test_other_pixels_and_labels_have_a_cache_of_their_own(filled, tiny, monkeypatch) -> None:
    def changed(config, splits, *args, **options):
        found = original(config, splits, *args, **options)
        found["train"].pixels[found["train"].ids[7], 0, 0, 0] += 1
        return found

    from mixstill.train import build as module

    original = module.load_splits
    monkeypatch.setattr(module, "load_splits", changed)
    with pytest.raises(UserError, match=r"to other samples: data.content is '\w{16}' there, '\w{16}' here"):
        build(tiny(filled))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data.dataset": "torch/image_folder"}, "data.dataset is 'folder' there, 'torch/image_folder' here"),
        ({"data.train_split": "other"}, "data.train_split is 'train' there, 'other' here"),
        ({"data.input_key": "img"}, "data.input_key is None there, 'img' here"),
        ({"data.target_key": "fine"}, "data.target_key is None there, 'fine' here"),
    ],
)
def test_data_that_are_read_go_by_their_source_too(base, tiny, tmp_path, monkeypatch, change, field) -> None:
    for split in ("train", "test"):
        for label in range(10):
            place = tmp_path / "photos" / split / str(label)
            place.mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), label, dtype=np.uint8)).save(place / "1.png")
    read = {
        "data.dataset": "folder",
        "data.data_dir": str(tmp_path / "photos"),
        "data.samples_per_class": None,
        "data.input_size": 8,
        "data.resident": False,
        "data.workers": 0,
    }
    options = base | read | {"distill.cache": str(tmp_path / "cache"), "train.max_steps": 1}
    fill(build(tiny(options)), Display("cache", quiet=True))
    assert build(tiny(options)).stepper.answers.there(0, 0, 1) == [0]
    list_photos = loading.list_photos
    folder = tiny(options).data
    monkeypatch.setattr(loading, "list_photos", lambda _, *of: list_photos(folder, *of))  # the same photos
    with pytest.raises(UserError, match="to other samples: ") as caught:
        build(tiny(options | change))
    assert field in str(caught.value)


def test_data_in_an_order_of_their_own_cannot_be_cached(base, tiny, monkeypatch) -> None:
    monkeypatch.setattr("mixstill.data.fingerprint.Resident", torch.Tensor)
    with pytest.raises(UserError, match=r"data.dataset: its samples come in an order of their own"):
        build(tiny(base))


@pytest.mark.parametrize("change", [{"distill.cache": None}, {"distill.teachers": []}])
def test_a_top_k_that_nothing_uses_is_passed_over(base, tiny, change) -> None:
    job = build(tiny(base | {"distill.cache_top_k": 10} | change))
    assert job.stepper.answers.caches == []
    assert answers_size(job) == (0 if "distill.teachers" in change else 2 * 4 * (4 + 10 * 20))


@pytest.mark.parametrize("k", [10, 11])
def test_a_top_k_of_all_classes_is_refused(base, tiny, k) -> None:
    with pytest.raises(UserError) as caught:
        build(tiny(base | {"distill.cache_top_k": k}))
    assert str(caught.value) == (
        f"distill.cache_top_k: {k} is not valid; the data have 10 classes: give fewer, or none for all"
    )
