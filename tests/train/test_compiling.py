"""What is compiled: without a graph break, without compiling again, and to the same numbers; and when it is."""

import copy
import json
import os
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from mixstill.config import DistillConfig, TrainConfig
from mixstill.distill.mutual_information import MutualInformation
from mixstill.distill.objective import Objective
from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
from mixstill.errors import UserError
from mixstill.models.drop_path import DropPath, place_paths, schedule_drop_path
from mixstill.schema import write_yaml
from mixstill.train import compiling
from mixstill.train.build import build as build_job
from mixstill.train.compiling import Compiler, choose, estimate, has_compiler
from mixstill.train.device import COMPILED, command_settings
from mixstill.train.run import saved_config, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
pytestmark = [pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"), pytest.mark.usefixtures("nothing_compiled")]


@pytest.fixture
def traced(monkeypatch):
    """torch.compile as a run calls it, but with nothing generated: quick, and it refuses a graph break."""
    compile_ = torch.compile

    def trace(part, **options):
        options.pop("mode")
        return compile_(part, backend="eager", fullgraph=True, **options)

    monkeypatch.setattr(compiling.torch, "compile", trace)


def student_of(name: str, tokens: str = "spatial+channel", places=("2/3", "last"), **options) -> Student:
    backbone = timm.create_model(name, num_classes=10)
    placements = [Placement.parse(f"{'ab'[m]}@{place}") for m, place in enumerate(places)]
    return Student(backbone, placements, tokens=tokens, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "name",
    ["mixer_micro_32", "resmlp_micro_32", "gmlp_micro_32", "cyclemlp_micro_32", "cifar_resnet8"],
)
def test_a_student_is_one_graph(name, training) -> None:
    student = student_of(name).train(training)
    graph = torch.compile(student, fullgraph=True, dynamic=False, backend="eager")
    images = torch.randn(4, 3, 32, 32)
    with torch.set_grad_enabled(training):
        found = graph(images)
    assert found.heads.shape == (2, 4, 10)


@pytest.mark.parametrize("options", [{"tokens": "none"}, {"tokens": "spatial"}, {"tokens": "channel"}, {"steps": 2}])
def test_every_kind_of_module_is_part_of_the_graph(options) -> None:
    student = student_of("mixer_micro_32", **options)
    torch.compile(student, fullgraph=True, dynamic=False, backend="eager")(torch.randn(4, 3, 32, 32))


def test_tokens_that_propagate_and_heads_of_the_backbone_are_part_of_the_graph() -> None:
    placements = [Placement.parse(text) for text in ("a@1/2", "a@last", "b@class", "c@token")]
    student = Student(timm.create_model("mixer_micro_distilled_32", num_classes=10), placements, propagate=True)
    for training in (True, False):
        graph = torch.compile(student.train(training), fullgraph=True, dynamic=False, backend="eager")
        assert graph(torch.randn(4, 3, 32, 32)).heads.shape == (4, 4, 10)


def test_new_paths_are_dropped_by_the_same_graph() -> None:
    backbone = timm.create_model("mixer_micro_32", num_classes=10, drop_path_rate=0.5)
    schedule_drop_path(backbone, 0.5, "linear")
    torch.nn.init.normal_(backbone.head.weight)
    student = Student(backbone, [Placement.parse("a@last")])
    plain, images = copy.deepcopy(student), torch.randn(8, 3, 32, 32)
    graph = torch.compile(student, fullgraph=True, dynamic=False, backend="eager")
    found = []
    for epoch in range(3):
        for model in (student, plain):
            place_paths(model, 0, epoch, torch.arange(8))
        found.append(graph(images).logits)
        assert torch.allclose(found[-1], plain(images).logits, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1


def test_new_paths_lie_where_the_old_ones_lay() -> None:
    """CUDA graphs read a module's tensors at the addresses that they had."""
    backbone = timm.create_model("mixer_micro_32", num_classes=10, drop_path_rate=0.5)
    schedule_drop_path(backbone, 0.5, "linear")
    paths = [module for module in backbone.modules() if isinstance(module, DropPath)]
    places, draws = set(), []
    for epoch in range(3):
        place_paths(backbone, 0, epoch, torch.arange(8))
        places.add(tuple(path.draws.data_ptr() for path in paths))
        draws.append(paths[-1].draws.clone())
    assert len(places) == 1
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_objective_is_one_graph(kind) -> None:
    objective = Objective(DistillConfig(kind=kind), 0.1, ["a@2/3", "b@last"], [0, 1], ["a", "b"])
    given = torch.randn(8, 10), torch.randn(2, 8, 10), torch.randn(2, 8, 10), torch.rand(8, 10)
    found = torch.compile(objective, fullgraph=True, dynamic=False, backend="eager")(*given)
    assert found.named.keys() == objective(*given).named.keys()
    assert torch.allclose(found.total, objective(*given).total)


def test_the_regulariser_has_no_graph_break() -> None:
    information = MutualInformation([(16, 4)], width=8)
    pairs = [(torch.randn(8, 16, requires_grad=True), torch.randn(8, 4, requires_grad=True))]
    torch.compile(information, fullgraph=True, backend="eager")(pairs, 3, 0.1)


FULL = {
    "train.compile": "always",
    "train.ema_decay": 0.9,
    "mi.weight": 0.1,
    "mi.width": 8,
    "views.mixup": 0.8,
    "views.cutmix": 1.0,
    "views.aa": "rand-m9-mstd0.5-inc1",
    "views.reprob": 0.25,
    "model.drop_path": 0.1,
}


def taught(teachers) -> list[str]:
    return [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]


def test_a_run_compiles_student_and_teachers_once(tiny, teachers, traced, tmp_path) -> None:
    options = FULL | {"distill.teachers": taught(teachers), "train.max_steps": 6}
    train(tiny(options), tmp_path / "run", quiet=True)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.slow
def test_compiled_code_takes_the_same_steps_and_goes_on_to_the_bit(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kept"))
    runs = {"plain": {"train.compile": "never"}, "compiled": {}, "halved": {"train.max_steps": 2}}
    for name, more in runs.items():
        train(tiny({"train.compile": "always", "train.epochs": 1} | more), tmp_path / name, quiet=True)
    saved = tmp_path / "halved" / "config.yaml"
    write_yaml(
        replace(saved_config(saved.parent), train=replace(saved_config(saved.parent).train, max_steps=None)), saved
    )
    train(tiny({"train.compile": "always", "train.epochs": 1}), tmp_path / "halved", resume=True, quiet=True)

    plain, compiled, halved = (load_file(tmp_path / name / "weights.safetensors") for name in runs)
    assert all(torch.equal(halved[name], values) for name, values in compiled.items())
    assert any(not torch.equal(compiled[name], values) for name, values in plain.items())  # it was compiled
    losses = [
        [json.loads(line).get("total", 0.0) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "compiled")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_run_that_could_not_be_compiled_goes_on_so(tiny, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(compiling, "pays", lambda *_: True)
    monkeypatch.setattr(compiling, "WORTH", 0.0)
    monkeypatch.setattr(compiling.torch, "compile", broken)
    left_open = {"train.compile": "auto"}
    for steps, resume in ((2, False), (3, True)):
        train(tiny(left_open | {"train.max_steps": steps}), tmp_path / "run", resume=resume)
        assert "Student cannot be compiled: no kernel for this; it runs uncompiled" in capsys.readouterr().err


def test_a_run_from_before_this_choice_goes_on_uncompiled(build) -> None:
    batches = build({"train.compile": "auto"}).batches
    assert choose(batches.config, CPU, batches, "auto").mode == "never"
    assert choose(batches.config, CPU, batches, "graphs").mode == "graphs"


def test_a_run_goes_on_as_it_began(tiny, tmp_path, monkeypatch) -> None:
    left_open = {"train.compile": "auto"}
    train(tiny(left_open | {"train.max_steps": 2}), tmp_path / "run", quiet=True)
    assert saved_config(tmp_path / "run").train.compile == "never"
    monkeypatch.setattr(compiling, "pays", lambda *_: True)
    monkeypatch.setattr(compiling, "WORTH", 0.0)  # now a run that begins would be compiled
    summary = train(tiny(left_open | {"train.max_steps": 4}), tmp_path / "run", resume=True, quiet=True)
    assert summary["config"]["train"]["compile"] == "never"
    with pytest.raises(UserError, match=r"train.compile: 'never' -> 'always'"):
        train(tiny({"train.compile": "always"}), tmp_path / "run", resume=True, quiet=True)


def broken(*_, **__):
    def run(*_):
        raise RuntimeError("no kernel\nfor this")

    return run


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(compiling.torch, "compile", broken)
    said: list[str] = []
    compiler = Compiler("always")
    compiler.begin(said.append)
    part = compiler.of(torch.nn.Linear(2, 3))
    assert part(torch.ones(4, 2)).shape == (4, 3)
    assert part(torch.ones(4, 2)).shape == (4, 3)
    assert said[1:] == ["warning: Linear cannot be compiled: no kernel for this; it runs uncompiled"]


def test_compilation_that_was_asked_for_and_cannot_be_is_the_users_mistake(monkeypatch) -> None:
    monkeypatch.setattr(compiling.torch, "compile", broken)
    part = Compiler("always", forced=True).of(torch.nn.Linear(2, 3))
    with pytest.raises(
        UserError, match=r"^train.compile: Linear cannot be compiled: no kernel for this; choose 'never'$"
    ):
        part(torch.ones(4, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # the part's own mistake stays its own
        part(torch.ones(4, 5))


def test_uncompiled_parts_are_the_parts_themselves() -> None:
    part = torch.nn.Linear(2, 3)
    assert Compiler().of(part) is part


def test_compilations_are_kept_between_commands(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(COMPILED, "")
    monkeypatch.delenv(COMPILED)
    Compiler("always")
    assert COMPILED not in os.environ
    with command_settings(TrainConfig(device="cpu")):
        assert os.environ[COMPILED] == str(tmp_path / "mixstill" / "compiled")
    monkeypatch.setenv(COMPILED, "elsewhere")
    with command_settings(TrainConfig(device="cpu")):
        assert os.environ[COMPILED] == "elsewhere"


def test_the_estimate_is_that_of_the_formula() -> None:
    assert estimate(CPU, 10**9, 100) == pytest.approx(100 * (0.05 + 6e9 / 1e11))
    assert estimate(CUDA, 10**12, 100) == pytest.approx(100 * (0.02 + 6e12 / 1e14))


def test_auto_compiles_what_is_long_where_there_is_a_compiler(tiny, build, monkeypatch) -> None:
    def mode(options, there=True, pays=True) -> str:
        monkeypatch.setattr(compiling, "has_compiler", lambda _: there)
        monkeypatch.setattr(compiling, "pays", lambda device, amp: pays)
        config = tiny({"train.compile": "auto"} | options)
        return choose(config, CPU, build(options).batches).mode

    assert mode({}) == "never"
    assert mode({"train.epochs": 10**4}) == "always"
    assert mode({"train.epochs": 10**4}, there=False) == "never"
    assert mode({"train.epochs": 10**4}, pays=False) == "never"
    assert mode({"train.compile": "always"}, pays=False) == "always"
    assert mode({"train.epochs": 10**4, "train.max_steps": 5}) == "never"
    assert mode({"train.epochs": 10**4, "train.compile": "never"}) == "never"
    assert mode({"train.compile": "always"}, there=False) == "always"
    monkeypatch.setattr(compiling, "WORTH", 0.0)
    assert mode({}) == "always"


@pytest.mark.parametrize(("there", "amp"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_cpu_gains_from_compilation_in_bfloat16_alone(there, amp, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "computes_bfloat16", lambda _: there)
    assert compiling.pays(CPU, amp) == (there and amp)
    assert compiling.pays(CUDA, amp)


def test_cuda_graphs_are_refused_where_they_cannot_be(tiny, build) -> None:
    config = tiny({"train.compile": "graphs"})
    with pytest.raises(UserError, match=r"train.compile: 'graphs' is not valid on cpu; CUDA graphs need a GPU"):
        build_job(config)
    passes = build({"train.compile": "graphs", "train.device_batch_size": 5}).batches
    with pytest.raises(UserError, match=r"train.compile: 'graphs' is not valid with several passes or processes"):
        choose(passes.config, CUDA, passes)
    assert choose(config, CUDA, build({"train.compile": "graphs"}).batches).mode == "graphs"


def test_graphs_are_a_mode_of_compilation(monkeypatch) -> None:
    modes = []
    monkeypatch.setattr(compiling.torch, "compile", lambda part, dynamic, mode: modes.append((dynamic, mode)))
    Compiler("graphs").of(torch.nn.Identity())
    Compiler("always").of(torch.nn.Identity())
    assert modes == [(False, "reduce-overhead"), (False, "default")]


def test_whether_there_is_a_compiler(monkeypatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name == "clang++")
    assert has_compiler(CPU)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name == "my-cxx")
    assert not has_compiler(CPU)
    monkeypatch.setenv("CXX", "my-cxx")
    assert has_compiler(CPU)
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert not has_compiler(CUDA)
    monkeypatch.setattr(compiling, "find_spec", lambda name: name == "triton")
    assert has_compiler(CUDA)
    monkeypatch.delenv("CXX")
    assert not has_compiler(CUDA)


class Counted(TorchDispatchMode):
    """Counts operations, those that make the host wait for numbers, and the bytes of new tensors."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0
        self.waiting: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.operations += 1
        if any(word == name or name.startswith(f"_{word}") for word in self.WAITING):
            self.waiting.append(name)
        held = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in held:
                self.bytes += tensor.untyped_storage().nbytes()
        return found


def counted_step(built) -> Counted:
    batches, steps = built.batches, []
    for index in range(3):  # the first makes the optimizer's state
        parts = batches.get(0, index)
        with Counted() as counted:
            built.stepper.step(built.state, parts, batches.passes, epoch=0, index=index, rate=1e-3)
        steps.append(counted)
    assert steps[1].operations == steps[2].operations
    return steps[2]


def test_a_step_waits_for_no_number_of_the_device(build, teachers, monkeypatch) -> None:
    """From the views on: what is drawn on the host before has its own test, with CUDA's own alarm."""
    options = {"distill.teachers": taught(teachers), "optim.clip_grad": 1.0, "data.samples_per_class": 6}
    monkeypatch.setattr("mixstill.rng.model_seed", lambda *_: 0)
    monkeypatch.setattr("mixstill.train.step.place_paths", lambda *_: None)
    monkeypatch.setattr("mixstill.train.step.derangement_shift", lambda *_: 3)
    options |= {name: FULL[name] for name in ("train.ema_decay", "mi.weight", "mi.width", "model.drop_path")}
    assert counted_step(build(options)).waiting == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("mode", ["never", "always", "graphs"])
def test_cuda_takes_whole_steps_without_waiting(tiny, teachers, mode) -> None:
    options = FULL | {"train.compile": mode, "train.device": "cuda", "distill.teachers": taught(teachers)}
    job = build_job(tiny(options | {"data.samples_per_class": 12}))
    job.state.student.train()
    feed = job.batches.run(0, 6)
    for index, parts in enumerate(feed):
        torch.cuda.set_sync_debug_mode("error" if index > 3 else "default")  # once all is compiled and recorded
        try:
            job.stepper.step(job.state, parts, 1, epoch=0, index=index, rate=1e-3)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_step_does_no_more_than_it_did(build, teachers) -> None:
    """Counts, not clocks. A change that lowers them may lower these."""
    plain = counted_step(build({"data.samples_per_class": 6}))
    taught_ = counted_step(build({"data.samples_per_class": 6, "distill.teachers": taught(teachers)}))
    assert plain.operations <= 380  # 364, 946, and 0.36 and 5.98 million bytes when this was written
    assert taught_.operations <= 980
    assert plain.bytes <= 400_000
    assert taught_.bytes <= 6_200_000
