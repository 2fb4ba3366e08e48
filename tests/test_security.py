"""What comes out of a file is data: (way to use a file) x (what its config asks for), and nothing happens."""

import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from mixstill.config import Config, DataConfig
from mixstill.data.folder import list_folder
from mixstill.data.images import open_image
from mixstill.data.opening import secure_webdataset
from mixstill.data.photos import Files
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.errors import UserError
from mixstill.schema import from_dict, to_dict, write_yaml
from mixstill.stored import ALL, BACKBONE, DATA, Stored, remember

PWNED = "touch PWNED; cat "
LOADED = ("eval FILE", "eval RUN", "predict FILE", "strip FILE", "teacher FILE", "teacher RUN", "teacher MODEL=FILE")
CONTINUED = ("train --init-from FILE", "check --init-from FILE", "train --resume RUN")
WAYS = (*LOADED, *CONTINUED)
EVAL = ("eval FILE", "eval RUN")

# What a config asks for, the words that the refusal must have, and where it is refused; elsewhere it is not looked at.
ASKED: dict[str, tuple[dict[str, Any], tuple[str, str], tuple[str, ...]]] = {
    "pipe": (
        {"data": {"dataset": "wds/x", "data_dir": f"pipe:{PWNED}"}},
        ("data.data_dir", "--data-dir"),
        WAYS,
    ),
    "pipe-split": (
        {"data": {"dataset": "wds/x", "data_dir": ".", "test_split": f"pipe:{PWNED}x.tar|8"}},
        ("data.test_split", "--data-dir"),
        WAYS,
    ),
    "braced-split": (
        {"data": {"dataset": "wds/x", "data_dir": ".", "test_split": "pi{pe:touch PWNED ;,}x.tar|8"}},
        ("data.test_split", "--val-split"),
        (*EVAL, *CONTINUED),
    ),
    "split-elsewhere": (
        {"data": {"dataset": "wds/x", "data_dir": ".", "train_split": "../../{0..3}.tar|8"}},
        ("data.train_split", "--train-split"),
        (*EVAL, *CONTINUED),
    ),
    "http": (
        {"data": {"dataset": "wds/x", "data_dir": "http://localhost:9/x"}},
        ("data.data_dir", "--data-dir"),
        (*EVAL, *CONTINUED),
    ),
    "hub-data": (
        {"data": {"dataset": "hfds/some/one"}},
        ("data.dataset", "--dataset"),
        (*EVAL, *CONTINUED),
    ),
    "hub-stream": (
        {"data": {"dataset": "hfids/some/one"}},
        ("data.dataset", "--dataset"),
        (*EVAL, *CONTINUED),
    ),
    "torchvision": (
        {"data": {"dataset": "torch/inaturalist", "data_dir": "here"}},
        ("data.dataset", "--dataset"),
        (*EVAL, *CONTINUED),
    ),
    "download": (
        {"data": {"dataset": "cifar10", "data_dir": "here", "download": True}},
        ("data.download", "--data.download"),
        (*EVAL, *CONTINUED),
    ),
    "key": (
        {"data": {"dataset": "wds/x", "data_dir": ".", "input_key": "http://localhost:9"}},
        ("data.input_key", "--input-key"),
        (*EVAL, *CONTINUED),
    ),
    "hub-model": ({"model": {"name": "hf-hub:some/one"}}, ("model.name", "--model"), WAYS),
    "folder-model": ({"model": {"name": "local-dir:/tmp"}}, ("model.name", "--model"), WAYS),
    "checkpoint": (
        {"model": {"kwargs": {"checkpoint_path": "/etc/passwd"}}},
        ("model.kwargs.checkpoint_path", "--init-from FILE"),
        WAYS,
    ),
    "cfg": (
        {"model": {"kwargs": {"pretrained_cfg": {"url": "http://localhost:9/x.pth"}}}},
        ("model.kwargs.pretrained_cfg", "the model's own is taken"),
        WAYS,
    ),
    "nested": (
        {"model": {"kwargs": {"a": [{"b": {"cache_dir": "elsewhere"}}]}}},
        ("model.kwargs.a.0.b.cache_dir", "--model.kwargs.a.0.b.cache_dir"),
        WAYS,
    ),
    "class": (
        {"model": {"kwargs": {"a": {"class_path": "logging.FileHandler", "init_args": {"filename": "PWNED"}}}}},
        ("model.kwargs.a.class_path", "--model.kwargs.a.class_path"),
        WAYS,
    ),
    "init-from": ({"model": {"init_from": "hf-hub:some/one"}}, ("model.init_from", "--init-from"), CONTINUED[2:]),
    "pretrained": ({"model": {"pretrained": True}}, ("model.pretrained", "--pretrained"), CONTINUED[2:]),
    "hub-teacher": ({"distill": {"teachers": ["hf-hub:some/one@last"]}}, ("distill.teachers", "--teachers"), CONTINUED),
    "named-teacher": ({"distill": {"teachers": ["resnet18@last"]}}, ("distill.teachers", "--teachers"), CONTINUED),
    "function": ({"distill": {"teachers": ["evil.py:make@last"]}}, ("distill.teachers", "--teachers"), CONTINUED),
    "disguised": (
        {"distill": {"teachers": ["resnet18=hf-hub:some/one=/etc/passwd@last"]}},
        ("distill.teachers", "--teachers"),
        CONTINUED,
    ),
    "cache": ({"distill": {"cache": "elsewhere"}}, ("distill.cache", "--cache"), CONTINUED),
    "tracker": ({"train": {"tracker": "tensorboard"}}, ("train.tracker", "--tracker"), CONTINUED),
}
TIMM_WAYS = ("predict FOLDER", "predict local-dir:FOLDER", "teacher FOLDER")
TIMM: dict[str, tuple[list[str], Any]] = {
    "nothing": (["architecture"], None),
    "hub-architecture": (["architecture"], "hf-hub:some/one"),
    "checkpoint-argument": (["model_args", "checkpoint_path"], "/etc/passwd"),
    "cfg-argument": (["model_args", "pretrained_cfg"], {"file": "/etc/passwd"}),
    "url": (["pretrained_cfg", "url"], "http://localhost:9/x.pth"),
    "hub-id": (["pretrained_cfg", "hf_hub_id"], "some/one"),
    "file": (["pretrained_cfg", "file"], "/etc/passwd"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all cells of both tables came to, in one child process with a home of its own."""
    root = tmp_path_factory.mktemp("strange")
    home = {"HOME": str(tmp_path_factory.mktemp("home")), "OMP_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("canary.py")), str(root)],
        input=json.dumps([{name: asked for name, (asked, _, _) in ASKED.items()}, TIMM]),
        env=os.environ | home,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def test_the_canary_sees_a_program_that_is_run(report: dict[str, Any]) -> None:
    assert len(report["the canary sings"]) == 1


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("way", WAYS)
def test_a_strangers_config_is_no_instruction(report: dict[str, Any], way: str, asked: str) -> None:
    came = report[f"{way} | {asked}"]
    _, words, refused = ASKED[asked]
    assert came["seen"] == []
    assert came["changed"] == []
    assert came["code"] == (2 if way in refused else 0), came
    if way in refused:
        assert came["said"].count("\n") == 1
        assert all(word in came["said"] for word in words), came["said"]


@pytest.mark.parametrize("asked", TIMM)
@pytest.mark.parametrize("way", TIMM_WAYS)
def test_a_strangers_timm_folder_is_no_instruction(report: dict[str, Any], way: str, asked: str) -> None:
    came, path = report[f"{way} | {asked}"], TIMM[asked][0]
    assert came["seen"] == []
    assert came["changed"] == []
    assert came["code"] == (0 if asked == "nothing" else 2), came
    if came["code"]:
        assert came["said"].count("\n") == 1
        assert "config.json" in came["said"]
        assert ".".join(path) in came["said"]


@pytest.fixture
def stored(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Stored]:
    """A config with options that lies in `x/config.yaml`, of a user who has named nothing yet, in his own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda options=None: Stored(Path("x", "config.yaml"), tiny(options))


def test_what_is_typed_now_is_not_looked_at(stored) -> None:
    asks = {"data.dataset": "hfds/some/one", "distill.cache": "c", "model.kwargs": {"some_file": "x", "depth": 1}}
    found = stored(asks)
    with pytest.raises(UserError, match=r"data.dataset"):
        found.check(ALL, {"distill": {"cache": None}, "model": {"kwargs": {"some_file": "y"}}})
    said = {"data": {"dataset": "digits"}, "distill": {"cache": None}, "model": {"kwargs": {"some_file": "y"}}}
    found.check(ALL, said)
    with pytest.raises(UserError, match=r"x/config.yaml: its config says model.kwargs.some_file: 'x', which is"):
        found.check(BACKBONE, {"model": {"kwargs": {"depth": 2}}})


def test_only_the_fields_that_are_used_are_looked_at(stored) -> None:
    stored({"distill.cache": "c", "train.tracker": "wandb"}).check((*DATA, *BACKBONE))


def test_what_the_user_named_before_he_may_find_again(stored, tmp_path) -> None:
    asks = {"data.dataset": "hfds/some/one", "distill.teachers": ["hf-hub:some/one@last"], "distill.cache": "/c"}
    remember(stored(asks | {"train.epochs": 9}).config)
    stored(asks | {"train.compile": "always"}).check(ALL)
    with pytest.raises(UserError, match=r"distill.cache"):
        stored(asks | {"data.dataset": "digits"}).check(ALL)
    marks = list((tmp_path / "state" / "mixstill" / "typed").iterdir())
    assert [mark.read_bytes() for mark in marks] == [b""]


def test_a_state_folder_that_cannot_be_written_to_is_no_matter(stored, tmp_path, monkeypatch) -> None:
    (tmp_path / "state").write_text("a file")
    found = stored({"distill.cache": "c"})
    remember(found.config)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "state"))
    remember(found.config)
    with pytest.raises(UserError, match=r"distill.cache: 'c', which is written to; say it yourself by --cache DIR"):
        found.check(ALL)


def test_a_path_outside_this_folder_is_told(stored, tmp_path, capsys) -> None:
    (tmp_path / "teacher").mkdir()
    with pytest.raises(UserError, match=r"'\.\./photos', which is no path here"):
        stored({"data.dataset": "folder", "data.data_dir": "../photos"}).check(ALL)
    (tmp_path / "photos").mkdir()
    options = {"data.dataset": "folder", "data.data_dir": "../photos", "distill.teachers": [f"{tmp_path}/teacher@last"]}
    found = stored(options)
    found.check(ALL)
    teacher = f"mixstill: a teacher from '{tmp_path}/teacher', as x/config.yaml says; --teachers names another"
    data = "mixstill: data from '../photos', as x/config.yaml says; --data-dir names another"
    assert sorted(capsys.readouterr().err.splitlines()) == sorted([data, teacher])
    found.check(DATA, {"data": {"data_dir": "x"}})
    (tmp_path / "here" / "photos").mkdir()
    stored({"data.dataset": "folder", "data.data_dir": "photos"}).check(ALL)
    remember(found.config)
    found.check(ALL)
    assert capsys.readouterr().err == ""


def test_ones_own_run_goes_on_and_a_strangers_copy_does_not(
    mixstill, refused, tiny_recipe, tmp_path, monkeypatch, teachers
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    run, words = tmp_path / "run", ("--cache", tmp_path / "cache", "--teachers", f"{teachers['small']}@last")
    first = mixstill("train", tiny_recipe(), *words, "--output", run, "--quiet", "--train.max_steps", "1")
    assert first.code == 0, first
    resume = ("train", "--resume", "--output", run, "--quiet")
    assert mixstill(*resume, "--train.max_steps", "2").err == ""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    assert "distill.cache" in refused(*resume)
    typed = ("--cache", tmp_path / "cache", "--teachers", f"{teachers['small']}@last", "--train.max_steps", "3")
    assert mixstill(*resume, *typed).code == 0
    assert mixstill(*resume, "--train.max_steps", "4").code == 0  # he has named it now


def test_a_strangers_run_is_not_written_to_through_links(tiny, stored, tmp_path) -> None:
    run, prey = tmp_path / "run", tmp_path / "prey"
    run.mkdir()
    prey.write_text("mine")
    (run / "inner").symlink_to("config.yaml")
    write_yaml(tiny(), run / "config.yaml")
    found = Stored(run / "config.yaml", tiny())
    found.check_links(run)
    for name in ("metrics.jsonl", ".config.yaml.partial"):
        (run / name).symlink_to(prey if name == "metrics.jsonl" else tmp_path / "nothing yet")
        with pytest.raises(UserError, match=f"{name}' is a link to"):
            found.check_links(run)
        remember(tiny(), tmp_path / "another run of the same config")
        with pytest.raises(UserError, match=f"{name}' is a link to"):
            found.check_links(run)
        remember(tiny(), run)
        found.check_links(run)
        (run / name).unlink()
        (tmp_path / "state" / "mixstill" / "typed").rename(tmp_path / f"forgotten {name}")


def test_resuming_looks_at_the_links(refused, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "run").mkdir()
    write_yaml(tiny(), tmp_path / "run" / "config.yaml")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    remember(tiny())  # the same was named before, but for another folder
    assert "checkpoints' is a link" in refused("train", "--resume", "--output", tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


def test_a_recipe_does_not_take_a_strangers_teacher_of_the_same_name(refused, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "run").mkdir()
    write_yaml(tiny({"distill.teachers": ["hf-hub:evil/digits-teacher@last"]}), tmp_path / "run" / "config.yaml")
    assert "distill.teachers: 'hf-hub:evil" in refused("train", "digits", "--resume", "--output", tmp_path / "run")


def test_the_arguments_of_a_model_are_never_built_into_objects() -> None:
    named = {"a": {"class_path": "calendar.Calendar", "init_args": {"firstweekday": 3}}}
    assert from_dict({"model": {"kwargs": named}}).model.kwargs == named
    assert to_dict(from_dict({"model": {"kwargs": named}}))["model"]["kwargs"] == named


@pytest.mark.parametrize("field", ["data_dir", "train_split", "test_split", "input_key", "target_key"])
def test_a_command_is_refused_whoever_says_it(field) -> None:
    with pytest.raises(UserError, match=rf"data.{field}: 'PIPE:touch x' is not valid; .*--data-dir DIR"):
        DataConfig(**{"dataset": "wds/x", field: "PIPE:touch x"})


@pytest.fixture
def gopen() -> Callable[..., Any]:
    """What webdataset opens with, once it is secured."""
    webdataset = pytest.importorskip("webdataset")
    secure_webdataset()
    secure_webdataset()  # which may be done again
    assert webdataset.utils.enforce_security
    assert webdataset.tariterators.gopen.gopen is webdataset.gopen
    opened: Callable[..., Any] = webdataset.gopen
    return opened


def test_webdataset_opens_files_and_runs_nothing(gopen, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"1")
    for url in ("a", f"file:{tmp_path}/a"):
        with gopen(url) as file:
            assert file.read() == b"1"
    for url in ("pipe:touch PWNED", "scp://localhost/x", "ais://x/y", "-x:y", "."):
        with pytest.raises((ValueError, OSError)):
            gopen(url)
    with pytest.raises(FileNotFoundError):
        gopen("-")  # not the standard input
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_webdataset_still_fetches_what_is_typed(gopen, monkeypatch) -> None:
    module, asked = sys.modules["webdataset.gopen"], []
    monkeypatch.setitem(module.gopen_schemes, "https", lambda url, *rest, **options: asked.append(url))
    gopen("https://localhost/x.tar")
    assert asked == ["https://localhost/x.tar"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.tar", "pipe:touch PWNED; cat ", "a/../../x.tar"])
def test_the_list_in_a_data_folder_names_only_its_own_files(name, tmp_path) -> None:
    pytest.importorskip("webdataset")
    from mixstill.data.loading import load_split

    part = {"name": "train", "num_samples": 1, "filenames": [name], "shard_lengths": [1]}
    (tmp_path / "info.json").write_text(json.dumps({"splits": {"train": part}}))
    config = DataConfig(dataset="wds/x", data_dir=str(tmp_path), num_classes=2, workers=0)
    with pytest.raises(UserError, match=r"data.data_dir: the info.json in .* names .*, which is not in there"):
        load_split(config, "train", "cpu", 8)


def test_weights_in_a_file_tell_their_config_to_whoever_loads_them(tiny, tmp_path, monkeypatch) -> None:
    from mixstill import load_classifier

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = tiny({"data.dataset": "hfds/some/one"})
    facts = Facts(10, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
    save_student(tmp_path / "x.safetensors", build_student(config, 10), config, facts)
    found = load_classifier(str(tmp_path / "x.safetensors")).stored
    assert found == Stored(tmp_path / "x.safetensors", config)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


def test_a_picture_is_handed_to_no_other_program(tmp_path, monkeypatch) -> None:
    run: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *of, **options: run.append(of))
    file = tmp_path / "1.jpg"
    file.write_bytes(EPS)
    Image.open(file).close()  # Pillow itself knows it
    with pytest.raises(UserError, match="it is none of JPEG, PNG"):
        open_image(file, 8)
    with pytest.raises(UnidentifiedImageError):
        Files([str(file)], [0]).open(0)
    assert run == []


def test_nor_where_torchvision_opens_it(tmp_path, monkeypatch, refused, tiny) -> None:
    run: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *of, **options: run.append(of))
    folder = tmp_path / "inat" / "2021_train" / "00000_Animalia_a_b_c_d_e_f"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(EPS)
    words = ("--data-dir", tmp_path / "inat", "--train-split", "train", "--device", "cpu", "--workers", 0)
    write_yaml(tiny({"data.samples_per_class": None, "train.epochs": 1}), tmp_path / "tiny.yaml")
    refused(
        "train", tmp_path / "tiny.yaml", "--dataset", "torch/inaturalist", *words, "--input-size", 8, "--output", "r"
    )
    assert EpsImagePlugin.gs_binary is False


def test_nor_where_timm_opens_it(gopen) -> None:
    assert EpsImagePlugin.gs_binary is False


def test_the_pickle_beside_a_tar_is_not_read(tmp_path, malicious, monkeypatch) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            tar.add(picture, "ant/a.png")
        (tmp_path / f"_{part}_tarinfos.pickle").write_bytes(pickle.dumps(malicious(tmp_path / "mark")))
    monkeypatch.setattr("os.path.getsize", lambda path: 11 * 1024**3)  # from 10 GB on timm looks for it
    config = DataConfig(dataset="folder", data_dir=str(tmp_path))
    assert list_folder(config, tmp_path, "train").classes == ("ant",)
    assert not (tmp_path / "mark").exists()
