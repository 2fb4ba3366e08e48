"""One training batch: the views of its samples, mixed, and the targets; a pure function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixstill import rng
from mixstill.config import Config
from mixstill.data import Resident, draw_mix, mix_images, mix_targets, normalise, resize, train_views


@dataclass(frozen=True)
class Batches:
    """The training batches of a run; images come normalised by the data set's mean and deviation."""

    data: Resident
    config: Config
    input_size: int

    @property
    def per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.data.steps_per_epoch(self.config.train.batch_size)

    @property
    def total(self) -> int:
        """Optimizer steps in all epochs."""
        return self.config.train.epochs * self.per_epoch

    def get(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B,3,H,W] and soft targets float32 [B,K] of batch `index`."""
        seed = self.config.train.seed
        ids = self.data.batch_ids(seed, epoch, index, self.config.train.batch_size)
        images = self.views(epoch, ids)
        mix = draw_mix(self.config.views, seed, epoch, index, self.input_size, self.input_size)
        targets = mix_targets(self.data.labels[ids], mix, len(self.data.classes))
        return mix_images(images, mix), targets

    def sample(self, epoch: int) -> Tensor:
        """Unmixed views float32 [b,3,H,W] of as many random samples as a batch has, for what is done once an epoch."""
        seed, n = self.config.train.seed, len(self.data)
        order = rng.permutation(seed, rng.Domain.REGULARISER, epoch, n, self.data.ids.device)
        return self.views(epoch, self.data.ids[order[: self.config.train.batch_size]])

    def views(self, epoch: int, ids: Tensor) -> Tensor:
        """The views float32 [B,3,H,W] of these samples in this epoch, not mixed."""
        views = train_views(self.data.pixels[ids], ids, self.config.views, self.config.train.seed, epoch)
        return normalise(resize(views, self.input_size), self.data.mean, self.data.std)
