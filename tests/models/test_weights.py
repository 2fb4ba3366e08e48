import argparse
import os
import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.models import _builder
from torch import nn
from torchvision.ops import deform_conv2d

from mixstill.errors import RunError, UserError
from mixstill.models import CifarResNet, adapt, classes_in, load_into, read_weights, write_weights
from mixstill.models.cyclemlp import PUBLISHED
from mixstill.models.families import infer_cifar_resnet

STATE = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(3, dtype=torch.float64)}


def one_line_error(path: Path, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


def trained(**kwargs):
    """A CIFAR ResNet in eval mode whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = CifarResNet(**{"depth": 8, "num_classes": 10} | kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


# --- reading ---


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pytorch_files_are_read(tmp_path, suffix, zipped):
    path = tmp_path / f"model{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    weights = read_weights(path)
    assert_same(weights.state, STATE)
    assert weights.metadata == {}


def test_a_pytorch_file_of_a_newer_pickle_protocol_is_read_without_a_warning(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(STATE, path, pickle_protocol=3)
    assert_same(read_weights(path).state, STATE)


def test_safetensors_are_read_with_their_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(STATE, path, {"name": "mixer"})
    weights = read_weights(path)
    assert_same(dict(sorted(weights.state.items())), dict(sorted(STATE.items())))
    assert weights.metadata == {"name": "mixer"}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "model": {"x": torch.zeros(1)}, "best": 91.2},
        {"model": STATE, "model_ema": {"x": torch.zeros(1)}, "epoch": 3},
        {"state_dict": {f"module.{key}": tensor for key, tensor in STATE.items()}},
        {f"module.{key}": tensor for key, tensor in STATE.items()},
    ],
    ids=["state_dict", "model", "state_dict of DataParallel", "DataParallel"],
)
def test_common_wrappers_are_taken_off(tmp_path, content):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    assert_same(read_weights(path).state, STATE)


def test_a_prefix_that_only_some_keys_have_stays(tmp_path):
    path = tmp_path / "model.pt"
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(state, path)
    assert_same(read_weights(path).state, state)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_cannot_be_opened_is_a_users_mistake(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    one_line_error(path, "cannot be read: No such file or directory")
    path.mkdir()
    one_line_error(path, "cannot be read: Is a directory")
    path.rmdir()
    path.touch()
    one_line_error(path, "the file is empty")


def test_an_unknown_suffix_is_a_users_mistake(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(STATE, path)
    one_line_error(path, "weights are not read from '.ckpt'; choose from .safetensors, .pt, .pth, .th, .bin, .tar")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_a_users_mistake(tmp_path, kind, share):
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    state = {"weight": torch.randn(30, 30)}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    one_line_error(path, "damaged, or not a ")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.pt", b"these are not weights\n" * 20, "not a PyTorch file"),
        ("text.safetensors", b"these are not weights\n" * 20, "damaged, or not a safetensors file"),
        ("list.pth", pickle.dumps([1, 2], protocol=2), "not a PyTorch file"),
        ("list.th", pickle.dumps([1, 2], protocol=5), "not a PyTorch file"),
        ("list.bin", pickle.dumps([1, 2], protocol=0), "not a PyTorch file"),
        ("zip.pt", b"PK\x05\x06" + bytes(18), "not a PyTorch file"),
        ("archive.pt", b"PK\x03\x04" + bytes(100), "damaged, or not a PyTorch file"),
        ("tensors.pt", safetensors.torch.save(STATE), "not a PyTorch file"),
        ("none.safetensors", safetensors.torch.save({}), "holds no tensors"),
    ],
)
def test_foreign_content_is_a_users_mistake(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    one_line_error(path, reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors at its top or under state_dict or model (its keys: none)"),
        ({"acc": 91.2, "net": STATE}, "holds no tensors at its top or under state_dict or model (its keys: acc, net)"),
        ({"state_dict": {"epoch": 3}}, "holds no tensors at its top or under state_dict or model (its keys: epoch)"),
        ({"fc.weight": torch.zeros(3), "epoch": 3}, "not a state dict: 'epoch' is a int, not a tensor"),
    ],
)
def test_a_pytorch_file_of_something_else_is_a_users_mistake(tmp_path, content, reason):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    one_line_error(path, reason)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_its_code_does_not_run(tmp_path, layout, malicious):
    path, mark = tmp_path / "model.pt", tmp_path / "ran"
    content = {"state_dict": STATE, "extra": malicious(mark)}
    if layout == "pickle":
        path.write_bytes(pickle.dumps(malicious(mark), protocol=4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    one_line_error(path, "not a PyTorch file" if layout == "pickle" else "refused: it holds more than tensors")
    assert not mark.exists()
    if layout == "zip":  # the file does run its code where nothing keeps it from it
        torch.load(path, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_checkpoint_of_a_training_script_is_read_with_its_architecture(tmp_path, key):
    path = tmp_path / "last.pth.tar"
    torch.save({key: STATE, "args": argparse.Namespace(lr=0.1), "epoch": 3, "arch": "std_mixer_s16_224"}, path)
    weights = read_weights(path)
    assert_same(weights.state, STATE)
    assert weights.metadata == {"arch": "std_mixer_s16_224"}


def test_an_object_of_any_other_kind_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": STATE, "args": Path("a")}, path)
    one_line_error(path, "refused: it holds more than tensors; save its state dict alone")


# --- writing ---


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "model.safetensors"
    weight = torch.randn(4, 6, requires_grad=True)
    state = {
        "a.weight": weight,
        "b.transposed": weight.T,
        "c.tied": weight,
        "d.rows": weight[1:3],
        "e.count": torch.tensor(7),
        "f.half": torch.ones(2, dtype=torch.bfloat16),
    }
    write_weights(path, state, {"seed": "0"})
    weights = read_weights(path)
    assert weights.metadata == {"seed": "0"}
    assert_same(dict(sorted(weights.state.items())), {key: tensor.detach() for key, tensor in state.items()})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_weights(tmp_path / "model.safetensors", STATE)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_weights(path, STATE)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        write_weights(path, {"other": torch.zeros(100)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_new_file_appears_only_once_it_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.exists()) or sync(descriptor))
    write_weights(path, STATE)
    assert synced == [False, True]  # the file before its name is there, the folder after
    assert path.exists()


def test_weights_are_written_as_safetensors_only(tmp_path):
    with pytest.raises(UserError, match=r"model.pt: weights are written as .safetensors"):
        write_weights(tmp_path / "model.pt", STATE)


def test_a_missing_folder_is_a_failed_write(tmp_path):
    with pytest.raises(RunError, match="cannot be written: No such file"):
        write_weights(tmp_path / "none" / "model.safetensors", STATE)


# --- public families ---


def public_logits(path, name, images):
    """What a model built from nothing but the file gives."""
    found = adapt(name, read_weights(path).state, str(path))
    model = timm.create_model(found.name, **found.kwargs)
    load_into(model, found.state, str(path))
    return found, model.eval()(images)


@pytest.mark.parametrize("name", [None, "cifar_resnet20"])
def test_akamasters_files_give_their_models_logits(tmp_path, name):
    path, images = tmp_path / "resnet20.th", torch.randn(2, 3, 32, 32)
    source = trained(depth=20, shortcut="A")
    state = {f"module.{key.replace('fc.', 'linear.')}": tensor for key, tensor in source.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.2}, path)
    found, logits = public_logits(path, name, images)
    assert torch.equal(logits, source(images))
    assert found.name == "cifar_resnet20"
    assert found.kwargs == {"num_classes": 10, "shortcut": "A"}
    assert found.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("num_classes", "normalisation"),
    [
        (10, ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))),
        (100, ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))),
        (7, None),
    ],
)
def test_chenyaofos_files_give_their_models_logits(tmp_path, num_classes, normalisation):
    path, images = tmp_path / "resnet.pt", torch.randn(2, 3, 32, 32)
    source = trained(depth=8, num_classes=num_classes)
    torch.save(source.state_dict(), path)
    found, logits = public_logits(path, None, images)
    assert torch.equal(logits, source(images))
    assert found.name == "cifar_resnet8"
    assert found.kwargs == {"num_classes": num_classes, "shortcut": "B"}
    assert found.normalisation == normalisation


def test_width_and_channels_are_inferred(tmp_path):
    source = trained(width=8, in_chans=1, shortcut="A")
    path, images = tmp_path / "model.safetensors", torch.randn(1, 1, 16, 16)
    write_weights(path, source.state_dict())
    found, logits = public_logits(path, None, images)
    assert found.kwargs == {"num_classes": 10, "shortcut": "A", "width": 8, "in_chans": 1}
    assert torch.equal(logits, source(images))


def cyclemlp_shapes(depths, dims, ratios, num_classes):
    """The learned parameters in a state dict of ShoufaChen/CycleMLP."""
    shapes = {"patch_embed.proj.weight": (dims[0], 3, 7, 7), "patch_embed.proj.bias": (dims[0],)}
    for stage, (depth, width, ratio) in enumerate(zip(depths, dims, ratios, strict=True)):
        for index in range(depth):
            linear = {
                "attn.reweight.fc1": (width // 4, width),
                "attn.reweight.fc2": (3 * width, width // 4),
                "attn.proj": (width, width),
                "mlp.fc1": (ratio * width, width),
                "mlp.fc2": (width, ratio * width),
                "attn.sfc_h": (width, width, 1, 1),
                "attn.sfc_w": (width, width, 1, 1),
                "norm1": (width,),
                "norm2": (width,),
            }
            block = f"network.{2 * stage}.{index}"
            shapes[f"{block}.attn.mlp_c.weight"] = (width, width)
            for name, shape in linear.items():
                shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        if stage:
            transition = f"network.{2 * stage - 1}.proj"
            shapes |= {f"{transition}.weight": (width, dims[stage - 1], 3, 3), f"{transition}.bias": (width,)}
    shapes |= {"norm.weight": dims[-1:], "norm.bias": dims[-1:]}
    shapes |= {"head.weight": (num_classes, dims[-1]), "head.bias": (num_classes,)}
    return shapes


def cyclemlp_file(*size):
    """A state dict of theirs, of small random numbers, with their constant offsets."""
    torch.manual_seed(0)
    state = {
        name: torch.randn(shape) * 0.05 + ("norm" in name and name.endswith("weight"))
        for name, shape in cyclemlp_shapes(*size).items()
    }
    for name in [name for name in state if name.endswith("sfc_h.weight") or name.endswith("sfc_w.weight")]:
        shifts = torch.tensor([(channel + 1) % 3 - 1.0 for channel in range(state[name].shape[1])])
        along_width = "sfc_h" in name  # pairs of (down, right)
        pairs = torch.stack([shifts * (not along_width), shifts * along_width], 1)
        state[name.replace("weight", "offset")] = pairs.view(1, -1, 1, 1)
    return state


def cyclemlp_logits(state, images):
    """What their network is, from its parts: the cycle layers are deformable convolutions with constant offsets."""

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def mlp(name, x):
        return linear(f"{name}.fc2", F.gelu(linear(f"{name}.fc1", x)))

    def cycle(name, x):
        weight, bias, offset = (state[f"{name}.{part}"] for part in ("weight", "bias", "offset"))
        maps = x.permute(0, 3, 1, 2)
        offsets = offset.expand(len(maps), -1, *maps.shape[2:])
        return deform_conv2d(maps, offsets, weight, bias).permute(0, 2, 3, 1)

    def mixing(name, x):
        branches = [cycle(f"{name}.sfc_h", x), cycle(f"{name}.sfc_w", x), linear(f"{name}.mlp_c", x)]
        scores = mlp(f"{name}.reweight", sum(branches).mean((1, 2))).view(len(x), -1, 3)
        shares = scores.softmax(2)[:, None, None]
        return linear(f"{name}.proj", sum(shares[..., i] * branch for i, branch in enumerate(branches)))

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 4, 2).permute(0, 2, 3, 1)
    for position in range(7):
        name = f"network.{position}"
        if position % 2:
            weight, bias = state[f"{name}.proj.weight"], state[f"{name}.proj.bias"]
            x = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 2, 1).permute(0, 2, 3, 1)
            continue
        for block in sorted({f"{name}.{key.split('.')[2]}" for key in state if key.startswith(f"{name}.")}):
            x = x + mixing(f"{block}.attn", norm(f"{block}.norm1", x))
            x = x + mlp(f"{block}.mlp", norm(f"{block}.norm2", x))
    return linear("head", norm("norm", x).mean((1, 2)))


B1 = ((2, 2, 4, 2), (64, 128, 320, 512), (4, 4, 4, 4), 7)


@pytest.mark.parametrize("name", [None, "cyclemlp_b1_224"])
def test_cyclemlps_files_give_their_models_logits(tmp_path, name):
    path, images = tmp_path / "CycleMLP_B1.pth", torch.randn(2, 3, 64, 64)
    state = cyclemlp_file(*B1)
    torch.save({"model": state}, path)
    found, logits = public_logits(path, name, images)
    expected = cyclemlp_logits(state, images)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (found.name, found.kwargs) == ("cyclemlp_b1_224", {"num_classes": 7})
    assert found.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["cyclemlp_b2_224", "cyclemlp_b3_224", "cyclemlp_b4_224", "cyclemlp_b5_224"])
def test_a_cyclemlps_size_is_told_from_its_file(name):
    shapes = cyclemlp_shapes(*PUBLISHED[name].size.values(), 1000)
    found = adapt(None, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert found.name == name


TINY = {"depths": (1, 2, 1, 1), "embed_dims": (8, 12, 16, 16), "mlp_ratios": (2, 2, 1, 1)}


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("name", ["cyclemlp_b1_224", "cyclemlp_b5_224.in1k"])
def test_the_authors_cyclemlps_load_by_name_with_other_classes_and_channels_too(tmp_path, name, wrapped):
    path, images = tmp_path / "CycleMLP.pth", torch.randn(2, 3, 64, 64)
    state = cyclemlp_file(*TINY.values(), 1000)
    torch.save({"model": state, "epoch": 299} if wrapped else state, path)
    from_file = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}, **TINY}
    model = timm.create_model(name, **from_file)
    torch.testing.assert_close(model.eval()(images), cyclemlp_logits(state, images), rtol=1e-4, atol=1e-4)
    own = tmp_path / "own.pth"
    torch.save(model.state_dict(), own)
    again = timm.create_model(name, **from_file | {"pretrained_cfg_overlay": {"file": str(own)}})
    assert_same(again.state_dict(), model.state_dict())

    other = timm.create_model(name, **from_file, num_classes=5, in_chans=1).eval()
    grey = torch.randn(2, 1, 64, 64)
    assert other(grey).shape == (2, 5)
    summed = state | {"patch_embed.proj.weight": state["patch_embed.proj.weight"].sum(1, keepdim=True)}
    summed |= {"head.weight": other.head.weight.detach(), "head.bias": other.head.bias.detach()}
    torch.testing.assert_close(other(grey), cyclemlp_logits(summed, grey), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", ["B1", "B2", "B3", "B4", "B5"])
def test_the_authors_cyclemlps_are_fetched_from_their_release(monkeypatch, size):
    asked, state = [], cyclemlp_file(*TINY.values(), 1000)

    def fetch(url, **_):
        asked.append(url)
        return {"model": state}

    monkeypatch.setattr(_builder, "load_state_dict_from_url", fetch)
    model = timm.create_model(f"cyclemlp_{size.lower()}_224", pretrained=True, **TINY)
    assert asked == [f"https://github.com/ShoufaChen/CycleMLP/releases/download/v0.1/CycleMLP_{size}.pth"]
    assert torch.equal(
        model.stages[1].blocks[1].mixing.height.weight, state["network.2.1.attn.sfc_w.weight"][..., 0, 0]
    )


def test_a_cyclemlp_that_cannot_be_built_is_a_users_mistake():
    state = cyclemlp_file(*B1)
    with pytest.raises(UserError, match=r"^teacher: holds a cyclemlp_b1_224, not the resnet18 that was named$"):
        adapt("resnet18", state, "teacher")
    with pytest.raises(UserError, match=r"^teacher: has no classifier \('head'\) of a cyclemlp_b1_224$"):
        adapt(None, {key: tensor for key, tensor in state.items() if not key.startswith("head")}, "teacher")
    state = {key: tensor for key, tensor in state.items() if not key.startswith("network.6.1.")}
    with pytest.raises(UserError, match=r"^teacher: holds a CycleMLP of no known size; there are cyclemlp_b1_224, "):
        adapt(None, state, "teacher")


def test_a_name_that_the_weights_contradict_is_a_users_mistake():
    state = trained().state_dict()
    with pytest.raises(UserError, match=r"^teacher: holds a cifar_resnet8, not the cifar_resnet20 that was named$"):
        adapt("cifar_resnet20", state, "teacher")
    with pytest.raises(UserError, match=r"^teacher: holds a cifar_resnet8, not the resnet18 that was named$"):
        adapt("resnet18", state, "teacher")
    with pytest.raises(UserError, match=r"^teacher: holds no CIFAR ResNet, so not the cifar_resnet20 that was named$"):
        adapt("cifar_resnet20", STATE, "teacher")


def test_a_depth_without_a_name_is_a_users_mistake():
    with pytest.raises(UserError, match="weights: holds a CIFAR ResNet of depth 26; there are cifar_resnet8, "):
        adapt(None, CifarResNet(26, width=4).state_dict())


def test_weights_that_are_not_recognised_need_a_name():
    with pytest.raises(UserError, match=r"from its keys; name it: --model NAME, as a teacher NAME=weights@PLACE$"):
        adapt(None, STATE)
    with pytest.raises(UserError, match="unknown value 'resnet81'; did you mean 'resnet18'"):
        adapt("resnet81", STATE)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("features.0.0.weight", "they are torchvision's, and timm's models have others"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "they are torchvision's, and timm's models have others"),
        ("layer4.0.conv1.weight", "they are those of torchvision's ResNets, which timm's have too"),
    ],
)
def test_weights_of_torchvision_are_named_as_such(key, words):
    names = ("conv1.weight", "bn1.weight", "fc.weight", key) if key.startswith("layer4") else (key,)
    with pytest.raises(UserError) as error:
        adapt(None, {name: torch.zeros(4) for name in names}, "net.pth")
    assert words in str(error.value)
    assert str(error.value).endswith("name it: --model NAME, as a teacher NAME=net.pth@PLACE")


def changed(model, **replaced):
    return model.state_dict() | {key.replace("__", "."): tensor for key, tensor in replaced.items()}


@pytest.mark.parametrize(
    "state",
    [
        timm.create_model("resnet18", device="meta").state_dict(),
        timm.create_model("resnet50", device="meta").state_dict(),
        changed(trained(), conv1__weight=torch.zeros(16, 3, 7, 7)),
        changed(trained(), conv1__weight=torch.zeros(())),
        changed(trained(), conv1__weight=torch.zeros(32, 3, 3, 3)),
        changed(trained(), fc__weight=torch.zeros(10, 65)),
        changed(trained(), layer4__0__conv1__weight=torch.zeros(1)),
        changed(trained(), layer1__0__conv3__weight=torch.zeros(1)),
        changed(trained(), layer1__1__conv1__weight=torch.zeros(1)),
        STATE,
    ],
    ids=[
        "resnet18",
        "resnet50",
        "stem",
        "scalar",
        "width",
        "pooling",
        "fourth stage",
        "bottleneck",
        "uneven",
        "linear",
    ],
)
def test_other_networks_are_not_taken_for_cifar_resnets(state):
    assert infer_cifar_resnet(state) is None


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("mixer_digits", {}),
        ("resnet10t", {}),
        ("resnet10t.c3_in1k", {}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1, "embed_dim": 12, "num_heads": 3}),
    ],
)
def test_any_timm_model_is_adapted_by_its_name_to_its_classes(name, kwargs):
    state = timm.create_model(name, num_classes=6, device="meta", **kwargs).state_dict()
    found = adapt(name, state)
    assert (found.name, found.kwargs, found.normalisation) == (name, {"num_classes": 6}, None)
    assert found.state is state


def test_weights_without_the_models_classifier_are_a_users_mistake():
    with pytest.raises(UserError, match=r"^teacher: has no classifier \('head'\) of a mixer_digits$"):
        adapt("mixer_digits", STATE, "teacher")


def test_classes_are_counted_in_one_or_several_classifiers():
    state = {"head.weight": torch.zeros(5, 2), "dist.weight": torch.zeros(5, 2), "conv.weight": torch.zeros(6, 2, 1, 1)}
    assert classes_in(state, "head") == 5
    assert classes_in(state, ("head", "dist")) == 5
    assert classes_in(state, "conv") == 6
    assert classes_in(state, ("head", "conv")) is None
    assert classes_in(state, "fc") is None
    assert classes_in({"fc.weight": torch.zeros(())}, "fc") is None
    assert classes_in(state, None) is None


# --- loading ---


def test_missing_batch_counters_are_tolerated():
    source, target = trained(), CifarResNet(8).eval()
    state = source.state_dict()  # with its version numbers, by which torch would insist on the counters
    for key in [key for key in state if "num_batches_tracked" in key]:
        del state[key]
    load_into(target, state, "old.th")
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(target(images), source(images))


def test_weights_that_do_not_fit_are_told_in_one_line_and_change_nothing():
    model = CifarResNet(8)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = {key: tensor + 1 for key, tensor in before.items()}
    del state["bn1.weight"], state["bn1.bias"]
    state |= {"head.weight": torch.zeros(1), "fc.weight": torch.zeros(100, 64), "fc.bias": torch.zeros(100)}
    with pytest.raises(UserError) as caught:
        load_into(model, state, "model.pt")
    assert str(caught.value) == (
        "model.pt: does not fit CifarResNet: 2 missing (first 'bn1.weight'), 1 unexpected (first 'head.weight'), "
        "2 of another shape (first 'fc.weight': [100, 64] for [10, 64])"
    )
    assert_same(model.state_dict(), before)
