"""The command line: a table of commands. Exit codes: 0 done, 1 a failed run, 2 a user's mistake, 128 + a signal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from mixstill.errors import InterruptedRun, RunError, UserError, one_line, unknown
from mixstill.telling import drop, open_streams, tell
from mixstill.version import __version__

# Each is a module of `mixstill.commands` with `USAGE` and `main(argv) -> None`; it is imported when it is called for.
COMMANDS = {
    "demo": "teach a small Mixer on bundled data, offline, and print what distillation gained",
    "check": "before a long run: teachers, shapes, loss, time, memory, disk",
    "cache": "store the teachers' answers to a run's views ahead",
    "train": "train a recipe",
    "eval": "top-1, top-5 and loss of a run, a weights file or a timm model",
    "predict": "classify images",
    "models": "backbones and students with their sizes",
    "strip": "the plain student of a run, as a checkpoint of timm",
    "reproduce": "the table of a published experiment, trained again",
    "recipes": "the shipped recipes and their measured results",
}


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise unknown("command", argv[0], COMMANDS)
        command = import_module(f"mixstill.commands.{argv[0]}")
        if "-h" in argv or "--help" in argv:
            print(command.USAGE)
        else:
            command.main(list(argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()  # while it can still be told that it cannot be written to
    except UserError as error:
        return _say(error, 2)
    except RunError as error:
        return _say(error, 1)
    except InterruptedRun as error:
        return _say(error, 128 + error.signal) if os.environ.get("RANK", "0") == "0" else 128 + error.signal
    except KeyboardInterrupt:
        return _say(RunError("interrupted"), 130)
    except BrokenPipeError:
        return 1
    except RuntimeError as error:
        if "home directory" in str(error):  # pathlib's, for ~user
            return _say(UserError("a path begins with ~ and the name of a user who has no home"), 2)
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            raise
        return _say(
            RunError("the device is out of memory; try --train.device_batch_size, or a smaller --batch-size"), 1
        )
    except OSError as error:
        return _say(RunError(f"{error.filename or 'output'}: {error.strerror or error}"), 1)
    return 0


def _say(error: BaseException, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    tell(f"mixstill{f' (rank {rank})' * (rank != '0')}: {one_line(error, 1000)}")
    return code


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"usage: mixstill COMMAND ...\n\n{rows}\n\nmixstill COMMAND --help tells the options of a command."


def run() -> None:
    """The console script."""
    open_streams()
    code = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            drop(stream)
    sys.exit(code)
