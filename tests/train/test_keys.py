"""What a teacher's answers depend on: each of it has a cache of its own, and what bends no answer shares one."""

import copy

import pytest
import torch

from mixstill.distill.classifier import load_classifier, save_student
from mixstill.errors import UserError
from mixstill.train.build import build
from mixstill.train.run import train


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


def test_data_in_an_order_of_their_own_cannot_be_cached(base, tiny, monkeypatch) -> None:
    monkeypatch.setattr("mixstill.data.fingerprint.Resident", torch.Tensor)
    with pytest.raises(UserError, match=r"data.dataset: its samples come in an order of their own"):
        build(tiny(base))


@pytest.mark.parametrize("k", [10, 11])
def test_a_top_k_of_all_classes_is_refused(base, tiny, k) -> None:
    with pytest.raises(UserError) as caught:
        build(tiny(base | {"distill.cache_top_k": k}))
    assert str(caught.value) == (
        f"distill.cache_top_k: {k} is not valid; the data have 10 classes: give fewer, or none for all"
    )
