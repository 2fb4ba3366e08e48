"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mixstill.errors import DataError, InterruptedRun
from mixstill.train.batch import Batches, Part
from mixstill.train.checkpoints import Checkpoints
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
    journal: Journal,
    checkpoints: Checkpoints,
    display: Display,
) -> dict[str, Score] | None:
    """Train `state` from its step to the last epoch or `train.max_steps`, and leave a checkpoint at the end.

    Returns the scores after the last step, None where there was no step left. A checkpoint is written only after the
    terms of all steps before it were found finite.
    """
    config, per_epoch, processes = stepper.config, batches.per_epoch, stepper.processes
    options = config.train
    last = batches.last

    def close_window() -> None:
        means = journal.close_window()
        if means:
            done = state.step - 1
            line = {
                "step": state.step,
                "epoch": done // per_epoch,
                "lr": learning_rate(config, done, per_epoch, batches.size),
            }
            journal.write(line | {"images_per_second": round(display.rate(), 1)} | means)
            display.metrics(state.step, last, means)

    def save() -> None:
        stepper.answers.flush()
        checkpoints.save(state)
        processes.wait()

    def steps() -> Iterator[Iterator[Part]]:
        try:
            yield from batches.run(state.step, last)
        except DataError:
            if processes.count == 1:  # the others do not know of it, and would be waited for
                close_window()
                save()
            raise

    scores: dict[str, Score] | None = None
    state.student.train()
    with StopSignal(patient=processes.count > 1) as stop, display.running(state.step, last):
        for parts in steps():
            epoch, index = divmod(state.step, per_epoch)

            # step
            rate = learning_rate(config, state.step, per_epoch, batches.size)
            terms = stepper.step(state, parts, batches.passes, epoch=epoch, index=index, rate=rate)
            done = index + 1 == per_epoch
            if done:
                terms |= stepper.regularise_epoch(state, batches, epoch)

            # record; a signal after this line is seen to one step later, or by the last step: that is always saved
            measured = state.step == last or (done and (epoch + 1) % options.eval_interval == 0)
            due = options.checkpoint_interval is not None and state.step % options.checkpoint_interval == 0
            stopped = processes.largest(stop.number or 0)
            saved = measured or due or stopped > 0
            journal.add(state.step, terms)
            display.advance(batches.size)
            if saved or state.step % options.log_interval == 0:
                close_window()

            # agree on the statistics of batch norm, which each process counted for itself
            for model in (state.student, state.ema) if saved else ():
                if model is not None:
                    processes.average_buffers(model)

            # evaluate
            if measured:
                scores = score()
                journal.write({"step": state.step, "epoch": epoch, "eval": plain(scores)})
                display.say(f"epoch {epoch + 1}/{options.epochs} {main_head(scores)}")

            # checkpoint
            if saved:
                save()
                stopped = processes.largest(stop.number or 0)
            if saved and stopped:
                raise InterruptedRun(stopped, f"stopped at step {state.step}")
    return scores
