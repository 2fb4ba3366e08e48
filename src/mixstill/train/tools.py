"""TensorBoard, MLflow, W&B and Trackio through accelerate's adapters: offline, in `tracking/TOOL` of the run.

What the user's environment says (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR, ...) comes before our defaults.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstill.files import write_atomically
from mixstill.paths import read_regular
from mixstill.quiet import environment, only_errors

PROJECT = "mixstill"
_PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """Where and as what a tool shows a run: a folder of its own, a title, and the id that all its resumes share."""

    folder: Path
    title: str
    id: str
    resumed: bool
    step: int
    config: dict[str, Any]
    held: ExitStack
    """What is put back when the tool is closed."""

    def unless_told(self, **defaults: str) -> None:
        """Set the environment variables that the user has not set, until the tool is closed."""
        for name, value in defaults.items():
            if name not in os.environ:
                self.held.enter_context(environment(name, value))


class Tool:
    """One of the tools, as a `Backend`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._adapter: Any = None
        self._own_state = False
        self._held = ExitStack()

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        """Open the tool for the run; where it was opened before, go on with what it shows."""
        run = run.resolve()
        folder = run / "tracking" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "id"
        resumed = file.exists()
        id_ = read_regular(file).decode() if resumed else uuid.uuid4().hex[:8]
        self._own_state = _take_state()
        place = Place(folder, run.name, id_, resumed, step, plain(config), self._held)
        self._adapter = _ADAPTERS[self.name](place)
        self._adapter.start()
        if resumed:
            return
        if self.name == "tensorboard":  # accelerate's own way makes two folders more, and each is shown as a run
            self._adapter.log({"config": "\n".join(f"    {name}: {value}" for name, value in place.config.items())})
        if self.name == "mlflow":
            self._adapter.store_init_configuration(place.config)
            id_ = self._adapter.tracker.info.run_id  # it gives out its ids itself
        write_atomically(file, id_.encode())

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Show these values, which belong to `step`."""
        if self.name == "mlflow":  # it refuses names with other characters
            values = {re.sub(r"[^\w\-./: ]", "_", name): value for name, value in values.items()}
        self._adapter.log(dict(values), step=step)

    def finish(self) -> None:
        """Close the tool, and leave accelerate and the environment as they were."""
        with self._held:
            self._adapter.finish()
            if self._own_state:
                from accelerate import PartialState

                PartialState._reset_state()


def plain(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config under dotted names, with values that every tool takes."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= plain(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _take_state() -> bool:
    """Accelerate's adapters ask its process state who they are; answer for it that this process is the only one.

    Left to itself it would start a process group when they ask. False where a host program has set the state already.
    """
    from accelerate import PartialState

    if PartialState._shared_state:
        return False
    with _out_of_environment(_PLACES):
        PartialState(cpu=True)
    return True


@contextmanager
def _out_of_environment(names: tuple[str, ...]) -> Iterator[None]:
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def _tensorboard(place: Place) -> Any:
    from accelerate.tracking import TensorBoardTracker

    purge = place.step + 1 if place.resumed else None  # hide the steps that a resumed run does again
    return TensorBoardTracker(place.folder.name, place.folder.parent, purge_step=purge)


def _mlflow(place: Place) -> Any:
    place.unless_told(MLFLOW_DISABLE_TELEMETRY="true", GIT_PYTHON_REFRESH="quiet")
    import mlflow
    from accelerate.tracking import MLflowTracker

    for name in ("alembic", "mlflow"):  # they tell of each table they make; errors reach us as such
        place.held.enter_context(only_errors(name, logging.CRITICAL))
    artifacts = None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{place.folder / 'mlflow.db'}")
        artifacts = (place.folder / "artifacts").as_uri()
    known = place.id if place.resumed else None
    return MLflowTracker(PROJECT, logging_dir=artifacts, run_id=known, run_name=place.title)


def _wandb(place: Place) -> Any:
    # its log files are under the home directory otherwise
    place.unless_told(WANDB_ERROR_REPORTING="false", WANDB_CACHE_DIR=str(place.folder))
    from accelerate.tracking import WandBTracker

    return WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=place.title,
        id=place.id,
        resume="allow",
        config=place.config,
        dir=os.environ.get("WANDB_DIR", str(place.folder)),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings={"silent": True, "console": "off"},
    )


def _trackio(place: Place) -> Any:
    place.unless_told(TRACKIO_DIR=str(place.folder), HF_HUB_OFFLINE="1")  # read when trackio is imported
    from accelerate.tracking import TrackioTracker

    return TrackioTracker(PROJECT, name=f"{place.title}-{place.id}", resume="allow", config=place.config)


_ADAPTERS: dict[str, Callable[[Place], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
    "trackio": _trackio,
}
