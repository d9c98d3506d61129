"""Progress of long commands. In: what they report. Out: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hybrid_ir.cli.terminal import console
from hybrid_ir.measure_names import VALIDATION, digits

COLUMNS = ("step", *VALIDATION)


@contextmanager
def counter(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress display for a stage that counts; silent when the output is not a terminal."""
    out = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def count(name: str, done: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(f"{what} {name}", total=total)
            bar.update(tasks[name], completed=done)

        yield count


def adding(count: Callable[[str, int], None], name: str = "texts") -> Callable[[int], None]:
    """What a stage calls with how many more are done, for a `counter` that is told how many are done in all."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        count(name, done)

    return add


class TrainingProgress:
    """A bar with loss, pairs/s, input wait and the realised mix; off a terminal, a plain line every ten seconds."""

    def __init__(self, steps: int) -> None:
        self._console = console()
        self._steps = steps
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._name = ""
        self._task: Any = None
        self._printed_at = 0.0

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        self._name = name
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=self._steps, figures="starting")
        self._printed_at = time.monotonic()

    def report(self, row: dict[str, Any]) -> None:
        if row.get("stopping"):
            self._console.print("stopping after this step and saving; Ctrl-C again to leave at once")
        elif "warning" in row:
            self._console.print(f"warning: {row['warning']}", highlight=False)
        elif encoder := row.get("encoder"):
            tokens, asked = encoder["max_tokens"], encoder["max_tokens_asked"] or 0
            clipped = f" (of {asked} that were asked for: it has positions for no more)" if asked > tokens else ""
            self._console.print(
                f"encoder {encoder['name']}: queries behind {encoder['query_prefix']!r}, passages behind "
                f"{encoder['passage_prefix']!r}, texts up to {tokens} tokens{clipped}, "
                f"pooling by {encoder['pooling']}"
            )
            if prompts := encoder.get("prompts"):
                self._console.print(
                    f"prompts by name: {', '.join(f'{name} {said!r}' for name, said in prompts.items())}"
                )
            if before := encoder["vocabulary_before"]:
                self._console.print(f"its vocabulary is cut to {encoder['vocabulary']:,} of {before:,} pieces")
            if lora := encoder["lora"]:
                self._console.print(f"LoRA trains {lora['trained']:,} values beside the encoder's {lora['of']:,}")
        elif "loss" in row:
            batches = sum(row["kinds"].values())
            mix = " ".join(f"{kind} {n / batches:.0%}" for kind, n in row["kinds"].items())
            figures = f"loss {row['loss']:.3f}  {row['pairs_per_s']:.0f} pairs/s  wait {row['input_wait']:.0%}  {mix}"
            self._bar.update(self._task, completed=row["step"], figures=figures)
            if not self._console.is_terminal and time.monotonic() - self._printed_at > 10:
                self._printed_at = time.monotonic()
                self._console.print(f"{self._name}: step {row['step']}/{self._steps}  {figures}")
        else:
            shown = "  ".join(f"{name} {_shown(name, value)}" for name, value in row.items() if name != "step")
            self._console.print(f"{self._name}: step {row['step']}  validation  {shown}")


class SweepProgress:
    """A live table of the trials that run, with what is done and left; off a terminal, a line a finished trial."""

    def __init__(self, total: int | None) -> None:
        self._console = console()
        self._total = total
        self._running: dict[str, Mapping[str, Any]] = {}
        self._ended: dict[str, str] = {}
        self._began = time.monotonic()
        self._live = Live(console=self._console, transient=True, refresh_per_second=2, auto_refresh=False)

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def update(self, trial: str, state: str, result: Mapping[str, Any]) -> None:
        if state == "running":
            self._running[trial] = {**self._running.get(trial, {}), **result}
        else:
            shown = {**self._running.pop(trial, {}), **result}
            if trial not in self._ended:
                self._ended[trial] = state
                self._console.print(f"{self._head()}  {trial}  {state}  {self._figures(shown)}".rstrip())
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)

    def _head(self) -> str:
        done, of = len(self._ended), f"/{self._total}" if self._total else ""
        seconds = time.monotonic() - self._began
        left = f", about {seconds / done * (self._total - done) / 60:.0f} min left" if self._total and done else ""
        return f"[{done}{of}, {seconds / 60:.0f} min{left}]".replace("[", r"\[")

    def _figures(self, result: Mapping[str, Any]) -> str:
        if result.get("error"):
            return str(result["error"])
        known = (name for name in COLUMNS if result.get(name) is not None)
        return "  ".join(f"{name} {_shown(name, result[name])}" for name in known)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, title=self._head(), title_justify="left")
        table.add_column("trial", justify="left")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for trial, result in self._running.items():
            table.add_row(trial, *(_shown(name, result.get(name)) for name in COLUMNS))
        return table


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value}" if name == "step" else f"{value:.{digits(name)}f}"
