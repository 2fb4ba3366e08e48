"""The command line: a table of commands.

Exit codes: 0 done, 1 a failed run, 2 a user's mistake, 70 a fault of mixstill itself, 128 + a signal.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from mixstill.errors import InterruptedRun, RunError, UserError, one_line, unknown
from mixstill.paths import OF_THE_PATH
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
DEBUG = "--debug"  # of every command, anywhere in the line
INTERNAL = 70  # of sysexits.h: a fault of the program


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    words = [word for word in argv if word != DEBUG]
    debug = len(words) < len(argv)
    _print_anything()
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    try:
        if words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        command = import_module(f"mixstill.commands.{words[0]}")
        if "-h" in words or "--help" in words:
            print(command.USAGE)
        else:
            command.main(words[1:])
        if sys.stdout is not None:
            sys.stdout.flush()  # while it can still be told that it cannot be written to
    except BrokenPipeError:
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        return _end(error)
    return 0


def _end(error: BaseException) -> int:
    """Tell in one line what ended a command, and give its exit code."""
    if isinstance(error, UserError):
        return _say(error, 2)
    if isinstance(error, RunError):
        return _say(error, 1)
    if isinstance(error, InterruptedRun):
        code = 128 + error.signal
        return _say(error, code) if os.environ.get("RANK", "0") == "0" else code
    if isinstance(error, KeyboardInterrupt):
        return _say(RunError("interrupted"), 130)
    if _out_of_memory(error):
        text = "the device is out of memory; try --train.device_batch_size, or a smaller --batch-size"
        return _say(RunError(text), 1)
    if isinstance(error, OSError):
        text = f"{str(error.filename or 'output')[:300]}: {error.strerror or error}"
        return _say(RunError(text), 2 if error.filename and error.errno in OF_THE_PATH else 1)
    text = f"internal error: {type(error).__name__}: {one_line(error, 500)}; run again with {DEBUG} and report it"
    return _say(RunError(text), INTERNAL)


def _out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which a command may not have imported
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _print_anything() -> None:
    """Let no name of a file or class stop the printing: what a stream cannot encode is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(error: BaseException, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    tell(f"mixstill{f' (rank {rank})' * (rank != '0')}: {one_line(error, 1000)}")
    return code


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"usage: mixstill COMMAND ...\n\n{rows}\n\nmixstill COMMAND --help tells the options of a command. "
        f"With {DEBUG} any of them shows the traceback of what ends it."
    )


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
