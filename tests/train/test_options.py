"""Every option of the config is run with another value than its default, and does what it is for."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from mixstill.errors import RunError, UserError
from mixstill.models import write_weights
from mixstill.schema import fields
from mixstill.train.build import checkpoint_gradients
from mixstill.train.device import command_settings
from mixstill.train.run import train

STEPS = 4  # an epoch, so that what is done once in an epoch is done

# Short names for what some options need beside them, filled in by `given`.
TAUGHT = {"distill.teachers": ["small@1/2", "large@last"]}
SOFT = TAUGHT | {"distill.kind": "soft"}
MI = TAUGHT | {"mi.weight": 1.0, "mi.width": 8, "mi.lr": 0.1}
SGD = {"optim.opt": "sgd"}
RRC = {"views.crop": "rrc"}
BOTH = {"views.mixup": 0.8, "views.cutmix": 1.0}
WARM = {"optim.warmup_epochs": 1.0}

# (option, value, what goes with it): the same run without the option ends in other weights.
BENDS = [
    ("model.name", "mixer_micro_32", {}),
    ("model.kwargs", {"num_blocks": 1, "embed_dim": 8}, {}),
    ("model.drop_path", 0.5, {}),
    ("model.drop_path_mode", "constant", {"model.drop_path": 0.5}),
    ("data.input_size", 16, {}),
    ("data.val_fraction", 0.5, {}),
    ("data.samples_per_class", 3, {}),
    ("data.mean", [0.5, 0.4, 0.3], {}),
    ("data.std", [0.5, 0.4, 0.3], {}),
    ("views.pad", 2, {}),
    ("views.hflip", 1.0, {}),
    ("views.vflip", 1.0, {}),
    ("views.crop", "rrc", {}),
    ("views.crop", "src", {}),
    ("views.scale", [0.3, 0.5], RRC),
    ("views.ratio", [0.5, 0.6], RRC),
    ("views.interpolation", "bilinear", RRC),
    ("views.interpolation", "random", RRC),
    ("views.interpolation", "bilinear", {"views.aa": "rand-m9-inc1"}),
    ("views.aa", "rand-m9-mstd0.5-inc1", {}),
    ("views.aa", "3a", {}),
    ("views.color_jitter", 0.4, {}),
    ("views.color_jitter", 0.4, {"views.aa": "3a"}),
    ("views.reprob", 0.5, {}),
    ("views.remode", "rand", {"views.reprob": 1.0}),
    ("views.remode", "const", {"views.reprob": 1.0}),
    ("views.recount", 3, {"views.reprob": 1.0}),
    ("views.resplit", True, {"views.reprob": 1.0, "views.aug_repeats": 2}),
    ("views.aug_repeats", 2, {}),
    ("views.cutmix_minmax", [0.2, 0.8], {}),
    ("views.cutmix_minmax", [0.2, 0.8], {"views.cutmix": 1.0}),
    ("views.mixup", 0.8, {}),
    ("views.cutmix", 1.0, {}),
    ("views.mixup_prob", 0.0, {"views.mixup": 0.8}),
    ("views.mixup_switch_prob", 1.0, BOTH),
    ("views.mixup_switch_prob", 0.0, BOTH),
    ("distill.teachers", ["small@last"], {}),
    ("distill.teachers", ["small@1/2", "large@last", "small@last"], {}),
    ("distill.kind", "soft", TAUGHT),
    ("distill.alpha", 0.9, TAUGHT),
    ("distill.tau", 3.0, SOFT),
    ("distill.weights", "entropy", TAUGHT),
    ("distill.weights", "uniform", TAUGHT),
    ("distill.tokens", "spatial", TAUGHT),
    ("distill.tokens", "channel", TAUGHT),
    ("distill.tokens", "none", TAUGHT),
    ("distill.steps", 2, TAUGHT),
    ("distill.propagate", True, {"distill.teachers": ["small@1/2", "small@last"]}),
    ("mi.weight", 0.5, MI),
    ("mi.every", "epoch", MI),
    ("mi.lr", 0.01, MI),
    ("mi.width", 4, MI),
    ("mi.ema_rate", 0.5, MI),
    ("optim.opt", "sgd", {}),
    ("optim.opt", "lamb", {}),
    ("optim.lr", 0.02, {}),
    ("optim.lr_base_size", 5, {}),
    ("optim.weight_decay", 0.3, {}),
    ("optim.no_decay", ["backbone.blocks.*"], {}),
    ("optim.decay_all", True, {}),
    ("optim.momentum", 0.5, SGD),
    ("optim.momentum", 0.0, SGD),
    ("optim.opt_eps", 1e-3, {}),
    ("optim.opt_betas", [0.5, 0.6], {}),
    ("optim.clip_grad", 0.01, SGD),
    ("optim.warmup_epochs", 2.0, {}),
    ("optim.warmup_lr", 1e-3, WARM),
    ("optim.min_lr", 5e-3, {}),
    ("train.epochs", 3, {}),
    ("train.max_steps", 2, {}),
    ("train.batch_size", 8, {}),
    ("train.smoothing", 0.3, {}),
    ("train.amp", True, {}),
    ("train.seed", 1, {}),
]


@pytest.fixture(scope="module")
def given(teachers):
    """The options with the files of the teachers in the place of their short names."""

    def fill(options):
        placed = [text.split("@") for text in options.get("distill.teachers", ())]
        texts = [f"{teachers[name]}@{place}" for name, place in placed]
        return options | ({"distill.teachers": texts} if texts else {})

    return fill


@pytest.fixture(scope="module")
def weights(build, given, tmp_path_factory):
    """The weights after a few steps of a run with these options; equal options are run once."""
    known = {}
    folder = tmp_path_factory.mktemp("run")

    def run(options):
        key = json.dumps(options, sort_keys=True)
        if key not in known:
            built = build(given({"train.max_steps": STEPS} | options))
            built.fit(folder)
            known[key] = built.state.student.state_dict()
        return known[key]

    return run


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[k].shape == other[k].shape and torch.equal(one[k], other[k]) for k in one
    )


@pytest.mark.parametrize(("option", "value", "beside"), BENDS)
def test_the_option_bends_the_run(weights, option, value, beside) -> None:
    leaf = fields()[option]
    assert (tuple(value) if isinstance(leaf.default, tuple) else value) != leaf.default
    varied = weights(beside | {option: value})
    assert all(tensor.isfinite().all() for tensor in varied.values())
    assert not equal(varied, weights(beside))


def test_the_same_options_give_the_same_weights(tiny, given, weights, tmp_path) -> None:
    options = given(MI)
    train(tiny({"train.max_steps": STEPS} | options), tmp_path / "again", quiet=True)
    assert equal(safetensors.torch.load_file(tmp_path / "again" / "weights.safetensors"), weights(MI))


# Options that leave the weights as they are, or need files of their own.


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_pretrained_starts_from_the_weights_of_the_model(tiny, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    model = timm.create_model("mixer_digits", num_blocks=1, embed_dim=8, num_classes=10)
    write_weights(folder / "model.safetensors", model.state_dict())
    cfg = {"num_classes": 10, "input_size": [3, 8, 8], "first_conv": "stem.proj", "classifier": "head"}
    about = {"architecture": "mixer_digits", "num_classes": 10, "model_args": {"num_blocks": 1, "embed_dim": 8}}
    (folder / "config.json").write_text(json.dumps(about | {"pretrained_cfg": cfg}))
    still = {"model.name": f"local-dir:{folder}", "model.kwargs": {}, "optim.lr": 1e-30, "train.max_steps": 1}
    for pretrained in (True, False):
        path = tmp_path / str(pretrained)
        train(tiny(still | {"model.pretrained": pretrained}), path, quiet=True)
        found = safetensors.torch.load_file(path / "weights.safetensors")
        assert equal({name: found[f"backbone.{name}"] for name in model.state_dict()}, model.state_dict()) == pretrained


def test_a_run_starts_from_the_weights_of_another(tiny, tmp_path) -> None:
    train(tiny({"train.max_steps": 2}), tmp_path / "before", quiet=True)
    before = safetensors.torch.load_file(tmp_path / "before" / "weights.safetensors")
    still = {"optim.lr": 1e-30, "train.max_steps": 1, "train.seed": 5}
    for source in (tmp_path / "before", None):
        path = tmp_path / f"after {source is None}"
        train(tiny(still | {"model.init_from": None if source is None else str(source)}), path, quiet=True)
        assert equal(safetensors.torch.load_file(path / "weights.safetensors"), before) == (source is not None)


@pytest.fixture
def folder(tmp_path):
    """Two classes in a train and a test folder, one image of which is broken."""
    for split in ("train", "test"):
        for label, name in enumerate(("ant", "bee")):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for index in range(4):
                pixels = np.random.default_rng(10 * label + index).integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    (tmp_path / "data" / "train" / "bee" / "broken.png").write_bytes(b"no image")
    return str(tmp_path / "data")


def test_a_folder_is_trained_on_and_its_corrupt_images_are_skipped_only_when_told(tiny, folder, tmp_path) -> None:
    options = {"data.dataset": "folder", "data.data_dir": folder, "data.samples_per_class": None}
    options |= {"data.resident": True}
    with pytest.raises(UserError, match=r"broken.png: .*data.max_corrupt"):
        train(tiny(options), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    summary = train(tiny(options | {"data.max_corrupt": 1, "train.batch_size": 4}), tmp_path / "run", quiet=True)
    assert summary["steps"] == 4  # 8 whole images
    assert summary["n"] == 8
    assert len(summary["corrupt"]) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_is_streamed_and_its_corrupt_images_are_counted(tiny, folder, tmp_path, workers) -> None:
    options = {"data.dataset": "folder", "data.data_dir": folder, "data.samples_per_class": None}
    options |= {"data.workers": workers, "train.batch_size": 3, "views.crop": "rrc", "data.crop_pct": 1.0}
    with pytest.raises(RunError, match=r"1 corrupt image, more than data.max_corrupt 0; the first: .*broken.png"):
        train(tiny(options), tmp_path / "stopped", quiet=True)
    summary = train(tiny(options | {"data.max_corrupt": 1}), tmp_path / "run", quiet=True)
    assert summary["steps"] == 6  # 9 images, one of which is replaced by another
    assert summary["n"] == 8
    assert ["broken.png" in name for name in summary["corrupt"]] == [True]
    again = train(tiny(options | {"data.max_corrupt": 1, "data.workers": 1}), tmp_path / "again", quiet=True)
    assert again["heads"] == summary["heads"]


def test_a_corrupt_image_ends_a_run_after_a_checkpoint_from_which_it_goes_on(tiny, folder, tmp_path) -> None:
    options = {"data.dataset": "folder", "data.data_dir": folder, "data.samples_per_class": None, "data.workers": 0}
    options |= {"train.batch_size": 1, "train.eval_interval": 2}
    free = {"data.max_corrupt": 1}
    straight = train(tiny(options | free), tmp_path / "straight", quiet=True)
    with pytest.raises(RunError, match="broken"):
        train(tiny(options), tmp_path / "run", quiet=True)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert saved > 0
    assert lines(tmp_path / "run")[-1]["step"] == saved
    resumed = train(tiny(options | free), tmp_path / "run", resume=True, quiet=True)
    assert resumed["heads"] == straight["heads"]
    assert [line["step"] for line in lines(tmp_path / "run")] == [line["step"] for line in lines(tmp_path / "straight")]


def test_a_data_set_that_is_there_is_not_downloaded(tiny, folder, tmp_path) -> None:
    options = {"data.dataset": "folder", "data.data_dir": folder, "data.max_corrupt": 1, "data.download": True}
    options |= {"data.resident": True}
    train(tiny(options | {"data.samples_per_class": 2, "train.batch_size": 4}), tmp_path / "run", quiet=True)


def test_a_validation_split_is_measured_beside_the_test_split(tiny, tmp_path) -> None:
    summary = train(tiny({"data.val_fraction": 0.1}), tmp_path / "run", quiet=True)
    assert list(summary["heads"]) == ["val", "test"]
    evaluated = next(line["eval"] for line in lines(tmp_path / "run") if "eval" in line)
    assert evaluated["class"]["n"] == summary["heads"]["val"]["class"]["n"] != summary["n"]


def test_passes_end_in_the_same_weights(tiny, given, tmp_path) -> None:
    options = given(SOFT | SGD | {"optim.lr": 0.1, "views.mixup": 0.8, "model.drop_path": 0.3})
    found = []
    for most in (None, 4):
        train(tiny(options | {"train.device_batch_size": most}), tmp_path / str(most), quiet=True)
        found.append(safetensors.torch.load_file(tmp_path / str(most) / "weights.safetensors"))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-5, rtol=0, msg=name)


def test_a_moving_average_is_kept_beside_the_weights_and_leaves_them_as_they_are(tiny, weights, tmp_path) -> None:
    summary = train(tiny({"train.ema_decay": 0.9, "train.max_steps": STEPS}), tmp_path / "run", quiet=True)
    files = [safetensors.torch.load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "ema")]
    assert equal(files[0], weights({}))
    assert not equal(*files)
    assert summary["ema"]["test"]["class"] != summary["heads"]["test"]["class"]


def test_the_decay_of_the_moving_average_may_grow(tiny, weights, tmp_path) -> None:
    found = {}
    for warmup in (False, True):
        path = tmp_path / str(warmup)
        options = {"train.ema_decay": 0.99, "train.ema_warmup": warmup, "train.max_steps": STEPS}
        train(tiny(options), path, quiet=True)
        assert equal(safetensors.torch.load_file(path / "weights.safetensors"), weights({}))
        found[warmup] = safetensors.torch.load_file(path / "ema.safetensors")
    assert not equal(found[False], found[True])


def test_gradient_checkpointing_keeps_less_and_computes_the_same(build, given) -> None:
    options, kept, found = (
        given(TAUGHT | {"model.drop_path": 0.5, "model.kwargs": {"num_blocks": 4, "embed_dim": 8}}),
        {},
        {},
    )
    for checkpointed in (False, True):
        built = build(options | {"train.grad_checkpointing": checkpointed})
        if checkpointed:
            checkpoint_gradients(built.state.student.backbone, "mixer_digits")
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            built.state.student(torch.rand(4, 3, 8, 8))
        kept[checkpointed] = sum(sizes)
        built.steps(2)
        found[checkpointed] = built.state.student.state_dict()
    assert kept[True] < kept[False] / 2
    for name, value in found[False].items():
        torch.testing.assert_close(value, found[True][name], msg=name)


def test_gradient_checkpointing_reaches_the_run_and_is_refused_where_a_model_lacks_it(tiny, tmp_path) -> None:
    train(tiny({"train.grad_checkpointing": True, "train.max_steps": 1}), tmp_path / "run", quiet=True)
    options = {"train.grad_checkpointing": True, "model.name": "dla46_c", "model.kwargs": {}, "data.input_size": 32}
    with pytest.raises(UserError, match=r"train.grad_checkpointing: 'dla46_c' does not support it; leave it out"):
        train(tiny(options), tmp_path / "refused", quiet=True)


def test_the_tracker_gets_what_metrics_jsonl_gets(tiny, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny({"train.tracker": "tensorboard", "train.max_steps": 3}), tmp_path / "run", quiet=True)
    (events,) = (tmp_path / "run").rglob("events.out.*")
    read = EventAccumulator(str(events.parent))
    read.Reload()
    written = [(line["step"], line["total"]) for line in lines(tmp_path / "run") if "total" in line]
    assert [(event.step, event.value) for event in read.Scalars("total")] == [(s, pytest.approx(v)) for s, v in written]


def test_threads_are_as_many_as_asked_for_by_a_command_and_put_back(tiny, tmp_path) -> None:
    config = tiny({"train.threads": 2, "train.max_steps": 1})
    with command_settings(config.train):
        summary = train(config, tmp_path / "command", quiet=True)
    assert summary["machine"]["threads"] == 2
    assert torch.get_num_threads() == 1
    assert train(config, tmp_path / "library", quiet=True)["machine"]["threads"] == 1


def test_the_device_is_the_one_asked_for(tiny, tmp_path) -> None:
    with pytest.raises(UserError, match=r"train.device: unknown device 'gpu'; choose auto, cpu, cuda or cuda:N"):
        train(tiny({"train.device": "gpu"}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_intervals_of_lines_evaluations_and_checkpoints(tiny, tmp_path, monkeypatch) -> None:
    """The steps of lines, of evaluations, and of checkpoints; the loop's own tests try more of them."""
    saved = []
    monkeypatch.setattr("mixstill.train.state.State.save", lambda self, path, keep: saved.append(self.step))
    intervals = {"train.log_interval": 5, "train.eval_interval": 2, "train.checkpoint_interval": 3, "train.epochs": 3}
    train(tiny(intervals), tmp_path / "run", quiet=True)
    assert [line["step"] for line in lines(tmp_path / "run") if "eval" in line] == [8, 12]
    assert [line["step"] for line in lines(tmp_path / "run") if "eval" not in line] == [3, 5, 6, 8, 9, 10, 12]
    assert saved == [0, 3, 6, 8, 9, 12]


def test_the_size_of_evaluation_batches_leaves_the_scores_as_they_are(tiny, tmp_path) -> None:
    one = train(tiny({"train.max_steps": 3}), tmp_path / "one", quiet=True)
    other = train(tiny({"train.max_steps": 3, "train.eval_batch_size": 100}), tmp_path / "other", quiet=True)
    assert one["n"] == other["n"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    assert (one["top1"], one["top5"]) == (other["top1"], other["top5"])


SPECIAL = {
    "model.pretrained": test_pretrained_starts_from_the_weights_of_the_model,
    "model.init_from": test_a_run_starts_from_the_weights_of_another,
    "data.dataset": test_a_folder_is_trained_on_and_its_corrupt_images_are_skipped_only_when_told,
    "data.data_dir": test_a_folder_is_trained_on_and_its_corrupt_images_are_skipped_only_when_told,
    "data.download": test_a_data_set_that_is_there_is_not_downloaded,
    "data.train_split": "data/test_iterable.py::test_a_split_may_be_written_in_braces_with_its_size",
    "data.test_split": "data/test_factory.py::test_keys_and_split_names_of_the_hub_are_those_of_the_config",
    "data.input_key": "data/test_factory.py::test_keys_and_split_names_of_the_hub_are_those_of_the_config",
    "data.target_key": "data/test_factory.py::test_keys_and_split_names_of_the_hub_are_those_of_the_config",
    "data.num_classes": "data/test_factory.py::test_keys_and_split_names_of_the_hub_are_those_of_the_config",
    "data.num_samples": "data/test_iterable.py::test_a_split_may_be_written_in_braces_with_its_size",
    "data.resident": test_a_folder_is_trained_on_and_its_corrupt_images_are_skipped_only_when_told,
    "data.max_corrupt": test_a_folder_is_streamed_and_its_corrupt_images_are_counted,
    "data.workers": test_a_folder_is_streamed_and_its_corrupt_images_are_counted,
    "data.crop_pct": test_a_folder_is_streamed_and_its_corrupt_images_are_counted,
    "train.compile": "train/test_compiling.py::test_compiled_code_takes_the_same_steps_and_goes_on_to_the_bit",
    "distill.cache": "train/test_answers.py::test_a_replayed_run_has_the_curve_of_the_live_one_"
    "and_is_the_filling_one_to_the_bit",
    "distill.cache_top_k": "train/test_answers.py::test_top_k_stays_close_to_the_live_run_and_is_replayed_to_the_bit",
    "train.device_batch_size": test_passes_end_in_the_same_weights,
    "train.ema_warmup": test_the_decay_of_the_moving_average_may_grow,
    "train.grad_checkpointing": test_gradient_checkpointing_keeps_less_and_computes_the_same,
    "train.tracker": test_the_tracker_gets_what_metrics_jsonl_gets,
    "train.sync_bn": "train/test_processes.py::test_batch_norm_over_all_processes_is_for_cuda",
    "train.ema_decay": test_a_moving_average_is_kept_beside_the_weights_and_leaves_them_as_they_are,
    "train.threads": test_threads_are_as_many_as_asked_for_by_a_command_and_put_back,
    "train.device": test_the_device_is_the_one_asked_for,
    "train.log_interval": test_intervals_of_lines_evaluations_and_checkpoints,
    "train.eval_interval": test_intervals_of_lines_evaluations_and_checkpoints,
    "train.checkpoint_interval": test_intervals_of_lines_evaluations_and_checkpoints,
    "train.eval_batch_size": test_the_size_of_evaluation_batches_leaves_the_scores_as_they_are,
}


def test_tests_elsewhere_exist() -> None:
    for test in SPECIAL.values():
        if isinstance(test, str):
            file, _, name = test.partition("::")
            assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text(encoding="utf-8")


def test_every_option_is_tested() -> None:
    tested = {option for option, _, _ in BENDS} | set(SPECIAL)
    assert set(fields()) - tested == set(), "a new option needs a test here"
    assert tested - set(fields()) == set()


@pytest.mark.parametrize("option", [name for name, leaf in fields().items() if leaf.choices and name not in SPECIAL])
def test_every_choice_of_an_option_is_tested(option) -> None:
    tried = {value for name, value, _ in BENDS if name == option}
    assert tried | {fields()[option].default} == set(fields()[option].choices)
