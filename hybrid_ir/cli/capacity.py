"""The command that plans a size: `plan-capacity`. In: a size, constants. Out: two tables and what they come from."""

from __future__ import annotations

from typing import Annotated, Any

from hybrid_ir.cli.options import key_values

Sizes = Annotated[list[str] | None, key_values("passages, groups, dimension, encoder, or a constant: gpus=16")]


def plan_capacity(overrides: Sizes = None) -> None:
    """Nodes, memory, disk and hours for 1, 10 and 100 million passages and groups, or for yours.
    Every constant can be given."""
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.cluster import parse_request, plan_index, plan_training

    asked = parse_request(overrides or ())
    indices = [plan_index(n, asked.dimension, asked.encoder, asked.constants) for n in asked.passages]
    trainings = [plan_training(n, asked.encoder, asked.constants) for n in asked.groups]
    out = console()
    out.print(_index_table(f"index and serving: {asked.encoder}, {asked.dimension} dimensions", indices))
    out.print(_training_table(f"store and training: an epoch on {asked.constants.gpus:g} GPUs", trainings))
    out.print(_constants_table(asked.constants))


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for n, name in enumerate(columns):
        table.add_column(name, justify="right" if n else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _index_table(title: str, plans: list[Any]) -> Any:
    columns = (
        "passages", "codec", "shards", "B/vector", "disk GB", "while built", "driver GB", "serving GB", "nodes",
        "build h", "most of it", "searches/s", "encoded/s", "p50 ms",
    )  # fmt: skip
    rows = []
    for p in plans:
        hours = sum(p.hours.values())
        stage = max(p.hours, key=p.hours.get)
        rows.append((
            f"{p.passages:,.0f}", p.codec, f"{p.shards}", f"{p.bytes_a_vector:.0f}", _short(p.disk_gb),
            _short(p.build_disk_gb), _short(p.build_memory_gb), _short(p.memory_gb), f"{p.nodes}", _short(hours),
            f"{stage} {p.hours[stage] / hours:.0%}", _short(p.searches_per_s), _short(p.encoded_per_s),
            _short(p.p50_ms),
        ))  # fmt: skip
    return _table(title, columns, rows)


def _training_table(title: str, plans: list[Any]) -> Any:
    columns = (
        "groups", "store GB", "while prepared", "prepare GB", "prepare h", "nodes", "data actors", "state GB", "steps",
        "train h", "GPU h",
    )  # fmt: skip
    rows = [
        (
            f"{p.groups:,.0f}", _short(p.disk_gb), _short(p.prepare_disk_gb), _short(p.prepare_memory_gb),
            _short(p.prepare_hours), f"{p.nodes}", f"{p.data_actors}", _short(p.memory_gb), f"{p.steps:,.0f}",
            _short(p.hours), _short(p.gpu_hours),
        )
        for p in plans
    ]  # fmt: skip
    return _table(title, columns, rows)


def _constants_table(constants: Any) -> Any:
    from dataclasses import fields

    rows = []
    for f in fields(constants):
        value = getattr(constants, f.name)
        kind = "yours" if value != f.default else "measured" if f.metadata["measured"] else "assumed"
        source = "" if kind == "yours" else f.metadata["source"]
        rows.append((f.name, f"{value:g}", f.metadata["unit"], kind, source))
    table = _table("computed from", ("constant", "value", "unit", "", "source"), rows)
    for column in table.columns[2:]:
        column.justify = "left"
    return table


def _short(value: float) -> str:
    """Two digits below 100, whole numbers above."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"
