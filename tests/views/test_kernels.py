"""The inner functions of the views have no graph break, and give the same pixels compiled, for batches of any size."""

import pytest
import torch
from torch._dynamo.utils import counters

from mixstill.config import ViewsConfig
from mixstill.views import erase, kernels, normalise, to_float, train_views

CONFIGS = {
    "randaugment": ViewsConfig(aa="rand-m9-mstd0.5-inc1", reprob=0.5),
    "three-augment": ViewsConfig(aa="3a", color_jitter=0.3),
    "jitter": ViewsConfig(color_jitter=0.4),
}
KERNELS = 16
MEAN = (0.5, 0.4, 0.3)


pytestmark = pytest.mark.usefixtures("nothing_compiled")


def views(config: ViewsConfig, epoch: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(epoch)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    which = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    varied = train_views(pixels, *which, config, 0, epoch, size=16, mean=MEAN)
    return erase(normalise(to_float(varied), MEAN, MEAN), *which, config, 0, epoch)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_kernels_are_single_graphs_that_give_the_same_views(name) -> None:
    sizes = (64, 61)
    with kernels.compiled("eager"):
        found = [views(CONFIGS[name], epoch, size) for epoch, size in enumerate(sizes)]
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 3 * KERNELS  # one for all sizes, but for batches of one
    for epoch, size in enumerate(sizes):
        assert torch.equal(found[epoch], views(CONFIGS[name], epoch, size))


def test_nothing_is_compiled_unless_asked_for() -> None:
    views(CONFIGS["randaugment"], 0, 8)
    with kernels.compiled(None):
        views(CONFIGS["randaugment"], 0, 8)
    assert counters["stats"]["unique_graphs"] == 0


def test_a_kernel_that_cannot_be_compiled_runs_as_it_is(monkeypatch) -> None:
    calls = []

    def broken(function, **_):
        def run(*_):
            calls.append(function)
            raise RuntimeError("no kernel")

        return run

    monkeypatch.setattr(kernels.torch, "compile", broken)
    doubled = kernels.kernel(lambda values: 2 * values)
    with kernels.compiled("eager"):
        assert doubled(torch.ones(2)).tolist() == [2, 2]
        assert doubled(torch.ones(2)).tolist() == [2, 2]
        with pytest.raises(TypeError):
            doubled(None)
    assert len(calls) == 1
