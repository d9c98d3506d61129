"""Commands that search: `tune`, and the studies built on it. In: a search space or a study. Out: a sweep's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hybrid_ir.cli.options import Config, Verbose, WaitForNodes, key_values
from hybrid_ir.measure_names import SWEEP, digits

Overrides = Annotated[list[str] | None, key_values("For example train.steps=100")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the trials and what they would cost, and stop.")]


def tune(
    space: Annotated[Path, typer.Option("--space", "-s", help="YAML file of the search space (docs/tune.md).")],
    out: Annotated[str, typer.Option(help="Folder for the trials, trials.parquet, best/ and report.html.")],
    config: Config = None,
    overrides: Overrides = None,
    at_a_time: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials at a time; default: what the cluster holds, as it grows. Kept by one that goes on."
        ),
    ] = None,
    wait_for_nodes: WaitForNodes = 0,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Train every point of a search space with every seed; print the table. Ctrl-C saves; the same command goes on."""
    from hybrid_ir.config import load_experiment
    from hybrid_ir.tuning import load_space

    base, searched = load_experiment(config, overrides or ()), load_space(space)

    def publish(rows: list[dict[str, Any]], folder: Path) -> None:
        from hybrid_ir.tuning import Findings, write_sweep_report

        write_sweep_report(folder / "report.html", f"Sweep: {space.stem}", base, searched, rows, Findings())

    if dry_run:
        _dry_run(base, searched, out)
    else:
        _run(base, searched, out, at_a_time=at_a_time, wait_for_nodes=wait_for_nodes, verbose=verbose, publish=publish)


def study(
    name: Annotated[
        str,
        typer.Argument(help="model_choice, monolingual_degradation, model_size, mixing_ratio, robustness, or a file."),
    ],
    overrides: Overrides = None,
    toy: Annotated[
        bool, typer.Option("--toy/--full", help="Embedded data and encoders from scratch, or hub models on GPUs.")
    ] = True,
    real: Annotated[
        bool,
        typer.Option("--real", help="A released encoder and real data: hours on two cores, minutes on a GPU."),
    ] = False,
    out: Annotated[str | None, typer.Option(help="Folder to write to; runs/studies/NAME by default.")] = None,
    reuse: Annotated[
        Path | None,
        typer.Option(help="Folder of another study; what it trained that this one asks for is not trained again."),
    ] = None,
    wait_for_nodes: WaitForNodes = 0,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Answer one of the five questions of the studies: prepare, sweep, measure, test, report."""
    from hybrid_ir.storage import is_uri
    from hybrid_ir.tuning import check_collections, check_study, enumerate_points, load_study
    from hybrid_ir.types import InputError

    if real and not toy:
        raise InputError("--real and --full are two forms of a study; give one of them")
    form = "real" if real else "toy" if toy else "full"
    if out is not None and is_uri(out):
        raise InputError(f"a study reads what it wrote, so it needs a folder, not {out}; choose another --out")
    folder = Path(out or f"runs/studies/{Path(name).stem}{'' if form == 'toy' else f'_{form}'}")
    asked = load_study(name, form, folder, overrides or ())
    check_study(asked, enumerate_points(asked.space, asked.experiment))
    from hybrid_ir.cli.terminal import console

    console().print(asked.question)
    if dry_run:
        _dry_run(asked.experiment, asked.space, str(folder))
        for each in asked.collections:
            console().print(f"then evaluate each on {each.collection} ({each.path})", markup=False)
        return
    check_collections(asked)
    _prepare_once(asked.experiment)

    def publish(rows: list[dict[str, Any]], folder: Path) -> None:
        from hybrid_ir.cli.progress import counter
        from hybrid_ir.tuning import find, probe_trials, take_benchmark_as_test, write_sweep_report

        with counter("measuring", sum(row["state"] == "complete" for row in rows)) as count:
            probes = probe_trials(asked, rows, folder, lambda done: count("trials", done))
        take_benchmark_as_test(rows, probes)
        findings = find(asked, rows, probes, folder)
        title = f"{asked.name} ({form})"
        write_sweep_report(folder / "report.html", title, asked.experiment, asked.space, rows, findings)
        for sentence in findings.sentences:
            console().print(f"- {sentence}", markup=False)

    _run(
        asked.experiment,
        asked.space,
        str(folder),
        at_a_time=None,
        reuse=reuse,
        wait_for_nodes=wait_for_nodes,
        verbose=verbose,
        publish=publish,
    )


def _prepare_once(experiment: Any) -> None:
    """Write the study's store unless it is there: then, and only then, was it prepared from these sources."""
    from hybrid_ir.data import open_store, prepare_experiment

    if (Path(experiment.store) / "manifest.json").is_file():
        open_store(experiment.store)
    else:
        prepare_experiment(experiment)


def _run(
    base: Any,
    space: Any,
    out: str,
    *,
    at_a_time: int | None,
    wait_for_nodes: int,
    verbose: bool,
    publish: Callable[[list[dict[str, Any]], Path], None],
    reuse: Path | None = None,
) -> None:
    """Plan, wait for nodes, say what it will cost, run, have the report written, and print the table.

    `at_a_time` trials train together; None: as many as there is room for. `reuse` is the folder of a sweep whose
    finished trials are taken over; `out` is a folder then.
    """
    from hybrid_ir.cli.progress import SweepProgress
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.cluster import cluster_for_trials, ray_session
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.storage import written_in_steps
    from hybrid_ir.tuning import check_trials, choose, claim, list_trials, point_results, sweep, take_over

    terminal = console()
    trials = list_trials(base, space, f"{out}/trials")
    check_trials(base, space, trials)
    if not verbose:
        quiet_libraries()
    begun = time.perf_counter()
    with written_in_steps(out, leave=("ray", "trials")) as (folder, put_back):
        claim(base, space, folder)
        put_back()  # before anything is trained: a sweep whose machine dies goes on
        if reuse is not None:
            count = take_over(trials, reuse, Path(out))
            terminal.print(f"{count} of {len(trials)} trials were trained by {reuse} and are taken over", markup=False)
        with ray_session(verbose) as resources:
            resources, most = cluster_for_trials(base, resources, at_a_time, wait_for_nodes, terminal.print)
            terminal.print(_cost_line(base, space, trials, most))
            with SweepProgress(len(trials) or (space.samples or 1)) as progress:
                rows = sweep(base, space, out, folder, resources, at_a_time, progress)
            publish(rows, folder)
    terminal.print(f"written to {out} (report: {out}/report.html)")
    results = point_results(rows)
    terminal.print(points_table(results))
    for row in rows:
        if row["state"] == "failed":
            terminal.print(f"failed: {row['label']} seed={row['seed']}: {row['error']}", markup=False)
    chosen = choose(results, space.max_rank_distance)
    if chosen is None:
        terminal.print(f"no point keeps rank_distance below {space.max_rank_distance:g}; best/ was not written")
    else:
        bound = f" with rank_distance up to {space.max_rank_distance:g}" if space.max_rank_distance else ""
        terminal.print(f"chosen by AP_mean of validation{bound}: {chosen.label} -> {out}/best", markup=False)
    terminal.print(f"{(time.perf_counter() - begun) / 60:.1f} min")


def points_table(results: Sequence[Any]) -> Any:
    """A row a point: test measures (validation's where there is no test), each with its half-width over seeds."""
    from rich.table import Table

    tested = any(result.test for result in results)
    title = "test, mean over seeds (± 95 %)" if tested else "validation, mean over seeds"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("point")
    for name in ("trials", *SWEEP):
        table.add_column(name, justify="right")
    for result in results:
        values: Mapping[str, float] = result.test if tested else result.validation
        cells = []
        for name in SWEEP:
            if name not in values:
                cells.append("-")
                continue
            shown = f".{digits(name)}f"
            half = result.test_half_width.get(name, float("nan")) if tested else float("nan")
            cells.append(f"{values[name]:{shown}}" + ("" if half != half else f" ± {half:{shown}}"))
        failed = f" (+{result.failed} not)" if result.failed else ""
        table.add_row(result.label, f"{len(result.trials)}{failed}", *cells)
    return table


def _dry_run(base: Any, space: Any, out: str) -> None:
    """Print the trials, their models, data, GPUs and hours. Needs neither the store nor the models."""
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.data import is_store
    from hybrid_ir.tuning import check_trials, list_trials

    terminal = console()
    trials = list_trials(base, space, f"{out}/trials")
    terminal.print(_plan_table(space, trials))
    for source in base.prepare.sources:
        settings = ", ".join(f"{k}={v}" for k, v in source.model_dump(exclude_defaults=True).items() if k != "kind")
        terminal.print(f"data: {source.kind} {settings}".rstrip(), markup=False)
    if is_store(base.store):
        check_trials(base, space, trials)
    else:
        terminal.print(f"no store at {base.store} yet, so what it can serve was not checked", markup=False)
    terminal.print(_cost_line(base, space, trials, None))


def _plan_table(space: Any, trials: Mapping[str, Any]) -> Any:
    """A row a point: what it trains, on what."""
    from rich.table import Table

    from hybrid_ir.tuning import point_label

    table = Table(box=None, pad_edge=False)
    for name in ("point", "encoder", "steps", "batch", "workers", "GPUs", "seeds"):
        table.add_column(name, justify="left" if name in ("point", "encoder") else "right")
    seeds: dict[str, int] = {}
    shown = {}
    for point, experiment in trials.values():
        label = point_label(point)
        seeds[label] = seeds.get(label, 0) + 1
        shown.setdefault(label, experiment)
    for label, experiment in shown.items():
        settings = experiment.train
        gpus = settings.workers * settings.gpus_per_worker
        figures = (settings.steps, experiment.batch.size, settings.workers, f"{gpus:g}", seeds[label])
        table.add_row(label, experiment.encoder.name, *(str(figure) for figure in figures))
    if not trials:
        table.caption = f"{space.search} search: {space.samples} points, drawn as it goes"
    return table


def _cost_line(base: Any, space: Any, trials: Mapping[str, Any], concurrent: int | None) -> str:
    """`42 trials, 2 at a time, about 31 min (...)`."""
    from hybrid_ir.data import is_store, open_store
    from hybrid_ir.tuning import estimate_cost

    experiments = [experiment for _, experiment in trials.values()]
    experiments = experiments or [base] * ((space.samples or 1) * len(space.seeds))
    cost = estimate_cost(experiments, concurrent or 1, open_store(base.store) if is_store(base.store) else None)
    from hybrid_ir.cli.terminal import counted

    head = f"{counted(len(experiments), 'trial')}{'' if concurrent is None else f', {concurrent} at a time'}"
    if cost is None:
        return f"{head}; the time is not known, because the size of an encoder is not"
    time = f"{cost.hours:.1f} h" if cost.hours >= 1.5 else f"{cost.hours * 60:.0f} min"
    if concurrent is None:
        time += " one after another"
    gpus = f", {cost.gpu_hours:.1f} GPU hours" if cost.gpu_hours else ""
    early = "; fewer steps where ASHA stops trials" if space.asha else ""
    return f"{head}, about {time}{gpus} (estimated from {cost.basis}{early})"
