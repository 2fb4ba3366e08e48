"""A field that is named but has no effect is refused; one that has is not."""

import pytest

from mixstill.errors import UserError
from mixstill.schema import fields, from_dict
from mixstill.unused import RULES, refuse_unused

UNUSED = [
    ({"data": {"dataset": "digits", "data_dir": "x"}}, "data.data_dir: 'x' has no effect with the data set digits"),
    ({"data": {"train_split": "all"}}, "data.train_split: 'all' has no effect with the data set digits"),
    ({"data": {"dataset": "folder", "num_samples": 9}}, "data.num_samples: 9 has no effect with the data set folder"),
    ({"data": {"dataset": "cifar10", "crop_pct": 0.5}}, "data.crop_pct: 0.5 has no effect with the data set cifar10"),
    ({"views": {"crop": "rrc", "pad": 2}}, "views.pad: 2 has no effect with views.crop rrc"),
    ({"views": {"scale": [0.5, 1.0]}}, "views.scale: (0.5, 1.0) has no effect with views.crop pad"),
    ({"views": {"recount": 3}}, "views.recount: 3 has no effect with views.reprob 0"),
    ({"views": {"mixup_prob": 0.5}}, "views.mixup_prob: 0.5 has no effect with neither mixup nor cutmix"),
    ({"distill": {"alpha": 0.9}}, "distill.alpha: 0.9 has no effect with no teachers"),
    ({"distill": {"teachers": "a", "tau": 2.0}}, "distill.tau: 2.0 has no effect with distill.kind hard"),
    ({"distill": {"cache": "x"}}, "distill.cache: 'x' has no effect with no teachers; name them by --teachers"),
    ({"mi": {"width": 8}}, "mi.width: 8 has no effect with mi.weight 0"),
    ({"optim": {"warmup_epochs": 0, "warmup_lr": 1e-3}}, "optim.warmup_lr: 0.001 has no effect with"),
]
USED = [
    {"data": {"dataset": "folder", "data_dir": "x", "crop_pct": 0.9}},
    {"data": {"dataset": "wds/x", "train_split": "a", "num_samples": 9}},
    {"views": {"crop": "rrc", "scale": [0.5, 1.0], "reprob": 0.1, "recount": 2, "mixup": 0.8, "mixup_prob": 0.5}},
    {"distill": {"teachers": "a", "kind": "soft", "tau": 2.0, "cache": "x"}},
    {"distill": {"kind": "hard", "alpha": 0.5}},  # the default, said aloud
    {"distill": {"teachers": [], "alpha": 0.9}},  # the control of the same command
    {"mi": {"weight": 0.1, "width": 8}},
]


@pytest.mark.parametrize(("typed", "message"), UNUSED)
def test_a_field_without_effect_is_refused(typed, message) -> None:
    with pytest.raises(UserError) as error:
        refuse_unused(from_dict(typed), typed)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("typed", USED)
def test_a_field_with_effect_is_taken(typed) -> None:
    refuse_unused(from_dict(typed), typed)


@pytest.mark.parametrize(("typed", "_"), UNUSED)
def test_what_a_recipe_holds_is_no_mistake(typed, _) -> None:
    refuse_unused(from_dict(typed), {})


def test_rules_name_fields() -> None:
    assert {name for names, _, _ in RULES for name in names} <= fields().keys()
