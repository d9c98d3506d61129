"""What pages and files tell the reader to type. In: a line of shell. Out: its commands, and what their parsers make
of them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from hybrid_ir.cli.app import app

OURS_AND_RAYS = ("hybrid-ir", "ray", "serve")


def split(line: str, programs: Sequence[str] | None = OURS_AND_RAYS) -> Iterator[list[str]]:
    """The argv of each command of a line of shell that is one of `programs`; None: of every command."""
    if programs and not re.search(rf"\b({'|'.join(programs)}) ", line):
        return
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    argv: list[str] = []
    for word in [*words, ";"]:
        if re.fullmatch("[;&|()]+", word):
            if argv and (programs is None or argv[0] in programs):
                yield argv
            argv = []
        elif argv or not re.match(r"[A-Z_]+=", word):
            argv.append(word)


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What the program's own command line makes of it; raises a usage error for a flag that it does not know."""
    program, *arguments = argv
    if program == "hybrid-ir":
        command: Any = typer.main.get_command(app)
    elif program == "ray":
        from ray.scripts.scripts import cli as command
    else:
        from ray.serve.scripts import cli as command
    while hasattr(command, "commands"):
        if (
            list(argv[:2]) == ["hybrid-ir", "index"]
            and arguments[0] not in command.commands
            and command.name == "index"
        ):
            arguments.insert(0, "build")
        command = command.commands[arguments.pop(0)]
    return command.name, command.make_context(command.name, arguments).params
