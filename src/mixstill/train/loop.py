"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mixstill.errors import InterruptedRun
from mixstill.train.batch import Batches
from mixstill.train.evaluate import Score, main_head, plain
from mixstill.train.journal import Journal
from mixstill.train.optim import learning_rate
from mixstill.train.progress import Display
from mixstill.train.signals import StopSignal
from mixstill.train.state import State
from mixstill.train.step import Stepper


def fit(
    state: State,
    batches: Batches,
    stepper: Stepper,
    score: Callable[[], dict[str, Score]],
    metrics: Path,
    checkpoint: Path,
    display: Display,
) -> dict[str, Score] | None:
    """Train `state` from its step to the last epoch or `train.max_steps`, and leave a checkpoint at the end.

    Returns the scores after the last step, None where there was no step left. A checkpoint is written only after the
    terms of all steps before it were found finite.
    """
    config, per_epoch = stepper.config, batches.per_epoch
    options = config.train
    last = min(batches.total, options.max_steps or batches.total)
    journal = Journal(metrics, state.step)

    def close_window(epoch: int, rate: float) -> None:
        means = journal.close_window()
        if means:
            line = {"step": state.step, "epoch": epoch, "lr": rate, "images_per_second": round(display.rate(), 1)}
            journal.write(line | means)
            display.metrics(state.step, last, means)

    scores: dict[str, Score] | None = None
    state.student.train()
    with StopSignal() as stop, display.running(state.step, last):
        while state.step < last:
            epoch, index = divmod(state.step, per_epoch)

            # step
            rate = learning_rate(config.optim, state.step, per_epoch, options.epochs)
            images, targets = batches.get(epoch, index)
            terms = stepper.step(state, images, targets, epoch=epoch, index=index, rate=rate)
            done = index + 1 == per_epoch
            if done:
                terms |= stepper.regularise_epoch(state, batches, epoch)

            # record; a signal after this line is seen to one step later, or by the last step: that is always saved
            measured = state.step == last or (done and (epoch + 1) % options.eval_interval == 0)
            due = options.checkpoint_interval is not None and state.step % options.checkpoint_interval == 0
            saved = measured or due or stop.number is not None
            journal.add(state.step, terms)
            display.advance(len(images))
            if saved or state.step % options.log_interval == 0:
                close_window(epoch, rate)

            # evaluate
            if measured:
                scores = score()
                journal.write({"step": state.step, "epoch": epoch, "eval": plain(scores)})
                display.say(f"epoch {epoch + 1}/{options.epochs} {main_head(scores)}")

            # checkpoint
            if saved:
                state.save(checkpoint)
            if saved and stop.number is not None:
                raise InterruptedRun(stop.number, f"stopped at step {state.step}")
    return scores
