"""The config: what it takes, how it words what it does not take, and that nothing is lost on the way to a file."""

import dataclasses
import json
from typing import get_args

import pytest
import yaml

from mixstill.config import Config, OptimConfig, TrainConfig
from mixstill.errors import UserError
from mixstill.schema import (
    FREE_ON_RESUME,
    Field,
    differences,
    fields,
    from_dict,
    mathematics,
    merge,
    read_yaml,
    to_dict,
    write_yaml,
)

UNIT = "of images in [0, 1]"
OTHER = {
    "model": {"name": "resnet18", "kwargs": {"in_chans": 3, "act_layer": "gelu", "nested": {"a": [1, 2]}}},
    "data": {"dataset": "folder", "data_dir": "/données", "input_size": 64},
    "distill": {"teachers": ["a b@2/3", "c@last"], "tau": 2.5},
    "optim": {"opt_betas": [0.8, 0.95], "clip_grad": 1.0, "lr": 5e-4},
    "train": {"ema_decay": 0.99, "seed": 2**64 - 1},
}


def test_every_field_has_help_and_a_dotted_name() -> None:
    assert len(fields()) == sum(len(section) for section in to_dict(Config()).values())
    for name, leaf in fields().items():
        assert leaf.name == name
        assert len(leaf.help) > 5


def test_an_empty_mapping_gives_the_defaults() -> None:
    assert from_dict({}) == Config()
    assert from_dict({"train": {}}) == Config()


def test_the_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train = TrainConfig()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.seed = 3  # type: ignore[misc]


def test_nothing_is_lost_by_way_of_a_dict_yaml_or_json(tmp_path) -> None:
    config = from_dict(OTHER)
    assert config != Config()
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    write_yaml(config, tmp_path / "config.yaml")
    assert from_dict(read_yaml(tmp_path / "config.yaml")) == config
    assert set(read_yaml(tmp_path / "config.yaml")["train"]) == set(vars(TrainConfig()))


def test_tuples_stay_tuples() -> None:
    config = from_dict(OTHER)
    assert config.distill.teachers == ("a b@2/3", "c@last")
    assert config.optim.opt_betas == (0.8, 0.95)


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("optim.lr", "5e-4", 5e-4),  # YAML 1.1 reads a float without a point as text
        ("optim.lr", 1, 1.0),
        ("optim.opt_betas", ["0.5", "9e-1"], (0.5, 0.9)),
        ("train.epochs", "7", 7),
        ("train.amp", "true", True),
        ("train.max_steps", None, None),
        ("data.data_dir", None, None),
        ("distill.teachers", "a@1/2 b", ("a@1/2", "b")),
        ("distill.teachers", "'my run@last' b", ("my run@last", "b")),
        ("distill.teachers", ["my run@last"], ("my run@last",)),
        ("distill.teachers", "", ()),
    ],
)
def test_text_is_read_as_the_type_of_the_field(field, given, value) -> None:
    section, name = field.split(".")
    found = getattr(getattr(from_dict({section: {name: given}}), section), name)
    assert found == value
    assert type(found) is type(value)


def test_a_float_without_a_point_is_a_float_in_a_file(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("optim:\n  lr: 5e-4\n  opt_eps: 1e-6\n")
    assert from_dict(read_yaml(tmp_path / "a.yaml")).optim == OptimConfig(lr=5e-4, opt_eps=1e-6)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"trian": {}}, ["config", "'trian'", "did you mean 'train'?"]),
        ({"train": {"sed": 1}}, ["'train.sed'", "did you mean 'train.seed'?"]),
        ({"lr": 1}, ["'lr'"]),
        ({"train": 3}, ["train", "a mapping", "3"]),
        ({"train": None}, ["train", "a mapping", "None"]),
        ({"data": {"dataset": "cifar1000"}}, ["data.dataset", "'cifar1000'", "did you mean 'cifar100'?"]),
        ({"data": {"dataset": "hdfs/a/b"}}, ["data.dataset", "'hdfs/a/b'", "did you mean 'hfds/a/b'?"]),
        ({"data": {"dataset": "wds/"}}, ["data.dataset", "'wds/'", "wds/NAME"]),
        ({"optim": {"opt": None}}, ["optim.opt", "null"]),
        ({"train": {"tracker": "wandbs"}}, ["train.tracker", "'wandbs'", "did you mean 'wandb'?"]),
        ({"distill": {"kind": "firm"}}, ["distill.kind", "'firm'", "hard, soft"]),
        ({"train": {"epochs": 1.5}}, ["train.epochs", "int", "1.5"]),
        ({"train": {"epochs": "many"}}, ["train.epochs", "int", "many"]),
        ({"train": {"amp": "maybe"}}, ["train.amp", "bool", "maybe"]),
        ({"train": {"smoothing": None}}, ["train.smoothing", "null"]),
        ({"optim": {"lr": "nan"}}, ["optim.lr", "nan"]),
        ({"optim": {"lr": float("inf")}}, ["optim.lr", "inf"]),
        ({"views": {"scale": [0.9]}}, ["views.scale", "2 elements", "0.9"]),
        (
            {"views": {"cutmix_minmax": [0.2]}},
            ["views.cutmix_minmax: [0.2] is not valid; it must be 2 numbers or none"],
        ),
        ({"optim": {"opt_betas": ["x"]}}, ["optim.opt_betas: ['x'] is not valid; it must be numbers or none"]),
        ({"optim": {"opt_eps": "x"}}, ["optim.opt_eps: 'x' is not valid; it must be a number or none"]),
        ({"train": {"max_steps": "x"}}, ["train.max_steps: 'x' is not valid; it must be a whole number or none"]),
        ({"data": {"resident": "x"}}, ["data.resident: 'x' is not valid; it must be true or false or none"]),
        ({"train": {"ema_warmup": True}}, ["train.ema_warmup: True is not valid; it must be with train.ema_decay"]),
        (
            {"optim": {"no_decay": ["*"], "decay_all": True}},
            ["optim.no_decay: ('*',) is not valid; it must be empty beside optim.decay_all"],
        ),
        ({"model": {"kwargs": 5}}, ["model.kwargs", "a mapping", "5"]),
        ({"distill": {"teachers": 5}}, ["distill.teachers", "5"]),
        ({"distill": {"teachers": "'a"}}, ["distill.teachers", "'a", "No closing quotation"]),
        ({"distill": {"teachers": [1]}}, ["distill.teachers", "1"]),
    ],
)
def test_a_mistake_names_the_field_the_value_and_what_would_do(raw, words) -> None:
    with pytest.raises(UserError) as error:
        from_dict(raw)
    message = str(error.value)
    assert "\n" not in message
    assert "jsonargparse" not in message
    assert "Parser" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("field", "values", "rule"),
    [
        ("model.drop_path", [-0.1, 1.0], "in [0, 1)"),
        ("data.input_size", [0, -8], "positive"),
        ("data.val_fraction", [-0.1, 1.0], "in [0, 1)"),
        ("data.samples_per_class", [0], "positive"),
        ("views.pad", [-1], "0 or more"),
        ("views.hflip", [-0.1, 1.1], "in [0, 1]"),
        ("views.mixup", [-0.1], "0 or more"),
        ("views.cutmix", [-0.1], "0 or more"),
        ("views.mixup_prob", [-0.1, 1.1], "in [0, 1]"),
        ("views.mixup_switch_prob", [-0.1, 1.1], "in [0, 1]"),
        ("distill.alpha", [-0.1, 1.1], "in [0, 1]"),
        ("distill.tau", [0.0], "positive"),
        ("distill.steps", [0], "positive"),
        ("mi.weight", [-1.0], "0 or more"),
        ("mi.lr", [0.0], "positive"),
        ("mi.width", [0], "positive"),
        ("mi.ema_rate", [0.0, 1.1], "in (0, 1]"),
        ("optim.lr", [0.0], "positive"),
        ("optim.weight_decay", [-1.0], "0 or more"),
        ("optim.warmup_epochs", [-1.0], "0 or more"),
        ("optim.warmup_lr", [-1.0], "0 or more"),
        ("optim.min_lr", [-1.0], "0 or more"),
        ("optim.momentum", [-0.1, 1.0], "in [0, 1)"),
        ("optim.opt_eps", [0.0], "positive"),
        ("optim.opt_betas", [(0.9, 1.0), (-0.1, 0.9)], "in [0, 1) each"),
        ("optim.clip_grad", [0.0], "positive"),
        ("train.epochs", [0], "positive"),
        ("train.max_steps", [0], "positive"),
        ("train.batch_size", [0], "positive"),
        ("train.device_batch_size", [0], "positive"),
        ("views.color_jitter", [-0.1], "0 or more"),
        ("views.vflip", [1.1], "in [0, 1]"),
        ("views.reprob", [1.1], "in [0, 1]"),
        ("views.recount", [0], "positive"),
        ("views.aug_repeats", [0], "positive"),
        ("views.resplit", [True], "with views.aug_repeats of 2 or more"),
        ("views.scale", [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1)], "two ascending in (0, 1]"),
        ("views.ratio", [(2.0, 1.0), (0.0, 1.0)], "two ascending, positive"),
        ("views.cutmix_minmax", [(0.2, 1.0), (0.3, 0.2)], "two ascending in (0, 1)"),
        ("data.crop_pct", [0.0, 1.1], "in (0, 1]"),
        (
            "data.mean",
            [(0.5, 0.5, 1.1), (-0.1, 0.5, 0.5)],
            "in [0, 1] each",
        ),
        ("data.std", [(0.0, 0.5, 0.5)], "in [0.000001, 1] each"),
        ("data.workers", [-1], "0 or more"),
        ("data.max_corrupt", [-1], "0 or more"),
        ("data.num_classes", [0], "positive"),
        ("data.num_samples", [0], "positive"),
        ("optim.lr_base_size", [0], "positive"),
        ("train.smoothing", [-0.1, 1.0], "in [0, 1)"),
        ("train.ema_decay", [0.0, 1.0], "in (0, 1)"),
        ("train.seed", [-1, 2**64], "in [0, 2**64)"),
        ("train.log_interval", [0], "positive"),
        ("train.eval_interval", [0], "positive"),
        ("train.eval_batch_size", [0], "positive"),
        ("train.checkpoint_interval", [0], "positive"),
    ],
)
def test_a_value_out_of_range_is_told_with_the_range(field, values, rule) -> None:
    section, name = field.split(".")
    for value in values:
        with pytest.raises(UserError) as error:
            from_dict({section: {name: value}})
        assert str(error.value) == f"{field}: {value!r} is not valid; it must be {rule}"


def test_what_cannot_go_together_is_refused() -> None:
    with pytest.raises(UserError, match=r"distill.propagate: True is not valid; .* distill.tokens is none"):
        from_dict({"distill": {"propagate": True, "tokens": "none"}})
    with pytest.raises(UserError, match=r"mi.weight: needs distill.tokens 'spatial\+channel', not 'channel'"):
        from_dict({"mi": {"weight": 0.1}, "distill": {"tokens": "channel"}})


def test_merge_puts_leaves_over_leaves_and_changes_neither() -> None:
    base = {"train": {"seed": 1, "amp": True}, "model": {"kwargs": {"a": 1}}}
    over = {"train": {"seed": 2}, "model": {"kwargs": {"b": {"c": 3}}}, "data": {"dataset": "folder"}}
    before = json.dumps([base, over])
    merged = merge(base, over)
    assert merged == {
        "train": {"seed": 2, "amp": True},
        "model": {"kwargs": {"a": 1, "b": {"c": 3}}},
        "data": {"dataset": "folder"},
    }
    merged["model"]["kwargs"]["a"] = merged["train"]["seed"] = merged["model"]["kwargs"]["b"]["c"] = 9
    assert json.dumps([base, over]) == before
    assert merge({"model": 3}, {"model": {"name": "x"}}) == {"model": {"name": "x"}}


OTHERS = {
    "data.mean": [0.5, 0.4, 0.3],
    "data.std": [0.5, 0.4, 0.3],
    "model.kwargs": {"a": 1},
    "distill.teachers": ["a@last"],
    "distill.tokens": "spatial",
    "optim.opt_betas": [0.5, 0.5],
    "optim.no_decay": ["backbone.stem.*"],
    "data.dataset": "wds/shards",
    "views.scale": [0.5, 0.6],
    "views.ratio": [0.5, 0.6],
    "views.cutmix_minmax": [0.5, 0.6],
}


def another(leaf: Field) -> object:
    """Another value than the default, and a valid one."""
    if leaf.name in OTHERS:
        return OTHERS[leaf.name]
    if leaf.choices:
        return next(choice for choice in leaf.choices if choice != leaf.default)
    if bool in (leaf.type, *get_args(leaf.type)):
        return not leaf.default
    if str in (leaf.type, *get_args(leaf.type)):
        return "x"
    return 0.25 if float in (leaf.type, *get_args(leaf.type)) else (leaf.default or 0) + 1


@pytest.mark.parametrize("name", list(fields()))
def test_each_difference_is_listed_but_those_that_a_resumed_run_may_have(name) -> None:
    section, leaf = name.split(".")
    needed = {"views.resplit": {"views": {"aug_repeats": 2}}, "train.ema_warmup": {"train": {"ema_decay": 0.5}}}
    below = needed.get(name, {})
    base, new = from_dict(below), from_dict(merge(below, {section: {leaf: another(fields()[name])}}))
    was, now = to_dict(base)[section][leaf], to_dict(new)[section][leaf]
    assert was != now
    expected = [] if name in FREE_ON_RESUME else [f"{name}: {was!r} -> {now!r}"]
    assert differences(base, new) == expected


def test_the_cache_of_a_resumed_run_may_lie_elsewhere_but_not_come_or_go() -> None:
    none, one, other = (from_dict({"distill": {"cache": path}}) for path in (None, "one", "other"))
    assert differences(one, other) == []
    assert differences(one, none) == ["distill.cache: 'one' -> None"]
    assert differences(none, one) == ["distill.cache: None -> 'one'"]


def test_what_a_resumed_run_may_change_bends_no_number() -> None:
    assert set(FREE_ON_RESUME) == {
        "data.data_dir",
        "data.download",
        "data.workers",
        "data.max_corrupt",
        "train.device",
        "train.threads",
        "train.device_batch_size",
        "train.tracker",
        "train.max_steps",
        "train.eval_batch_size",
        "train.checkpoint_interval",
    }
    assert set(FREE_ON_RESUME) < set(fields())
    assert differences(Config(), Config()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "cannot be read as YAML"),
        (b"\xff\xfe\xfa", "cannot be read as YAML"),
        (b"- a", "got list"),
        (b"", "NoneType"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_told_by_name(tmp_path, content, words) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


def test_a_missing_file_is_told_by_name(tmp_path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as YAML: .*No such file"):
        read_yaml(tmp_path / "a.yaml")


def test_a_config_file_runs_no_code(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("!!python/object/apply:os.system ['exit 1']")
    with pytest.raises(UserError, match="could not determine a constructor"):
        read_yaml(tmp_path / "a.yaml")
    assert yaml.safe_load("lr: 5e-4") == {"lr": "5e-4"}  # why text is read as the field's type


def test_a_run_of_an_earlier_version_is_the_same_whether_a_default_is_written_out() -> None:
    old, new = from_dict({"data": {"crop_pct": 0.875}}), Config()
    assert (differences(old, new), mathematics(old)) == ([], mathematics(new))
    assert mathematics(from_dict({"data": {"crop_pct": 0.9}})) != mathematics(new)


def test_teachers_are_the_same_by_name_wherever_they_lie() -> None:
    old, new = (from_dict({"distill": {"teachers": f"{folder}/big@last"}}) for folder in ("/a", "/b"))
    assert (differences(old, new), mathematics(old)) == ([], mathematics(new))
    other = from_dict({"distill": {"teachers": "/a/small@last"}})
    assert differences(old, other) == ["distill.teachers: ['/a/big@last'] -> ['/a/small@last']"]


def test_a_number_is_no_yaml_with_aliases() -> None:
    bomb = "[&a [0,0,0,0],&b [*a,*a,*a,*a],&c [*b,*b,*b,*b],&d [*c,*c,*c,*c]]"
    with pytest.raises(UserError, match=r"views\.scale: .* is not valid; it must be 2 numbers"):
        from_dict({"views": {"scale": bomb}})


def test_shards_are_bounded_before_they_are_listed() -> None:
    with pytest.raises(UserError, match=r"data\.test_split: .* 1,000,000 shards at most"):
        from_dict({"data": {"dataset": "wds/x", "test_split": "{0..99999999}.tar"}})
