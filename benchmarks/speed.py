"""Speed in one page: each figure, what one would use instead, what the machine allows, and where the rest goes.

    python benchmarks/speed.py --xquad XQUAD_R --out runs/speed            (`make bench XQUAD=XQUAD_R`)
    python benchmarks/speed.py --page runs/speed/speed.json docs/speed.md

Ours and the peer run in turn, and figures are medians. The floor of a step, and of encoding, is its matrix products at
the rate that this machine reaches on them while nothing else runs. Writes speed.json, speed.md and speed.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pairs import Killed, make_inputs, run_json

from hybrid_ir.encoders.embedding import resolve_precision
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.machine import KEEPING_MEMORY

HERE = Path(__file__).parent
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
ENCODERS = {
    "mini": "mini, 7 million parameters",
    "cut": "multilingual-e5-small, vocabulary cut to the texts",
    "whole": "multilingual-e5-small, whole",
}
SHARES = {  # operator of torch's profiler -> what it is for
    "matrix products": ("aten::mm", "aten::addmm"),
    "attention": ("aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data"),
    "copies and casts": ("aten::copy_", "aten::index_copy_", "aten::index_select", "aten::cat", "aten::fill_"),
    "activation and norms": (
        "aten::gelu",
        "aten::gelu_backward",
        "aten::native_layer_norm",
        "aten::native_layer_norm_backward",
    ),
    "dropout and sums": (
        "aten::ge",
        "aten::mul",
        "aten::mul_",
        "aten::add",
        "aten::add_",
        "aten::sum",
        "_Differentiable",
    ),
    "optimiser and clipping": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::_foreach_norm"),
}


def machine(threads: int) -> dict[str, Any]:
    """What this machine is: processor, instructions, matrix rates in GFLOP/s, bandwidth in GB/s."""
    torch.set_num_threads(threads)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    source, target = torch.ones(2**26), torch.empty(2**26)  # 256 MiB each
    copied = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return {
        "processor": facts.get("model name", "unknown"),
        "features": [name for name in FEATURES if name in flags],
        "threads": threads,
        "torch": torch.__version__,
        "precision": resolve_precision("auto", "cpu"),
        "gflops": {name: matrix_rate(dtype) for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))},
        "gb_per_s": 2 * source.nbytes / copied / 1e9,
    }


def matrix_rate(dtype: torch.dtype, tokens: int = 2048, width: int = 384, inner: int = 1536) -> float:
    """GFLOP/s of the feed-forward's product of multilingual-e5-small: the median of many."""
    x, weight = torch.randn(tokens, width, dtype=dtype), torch.randn(inner, width, dtype=dtype)
    out = torch.empty(tokens, inner, dtype=dtype)
    times = [_seconds(lambda: torch.mm(x, weight.T, out=out)) for _ in range(200)]
    return 2 * tokens * width * inner / statistics.median(times[20:]) / 1e9


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def training(encoder: str, model: Path, pairs: Path, given: argparse.Namespace, floor_rate: float) -> dict[str, Any]:
    """One encoder's training: ours and the peer in turn."""
    slow = encoder != "mini"
    # The peer's memory grows with every step: after five of E5's it was killed on a machine of 24 GB.
    common = ["--threads", str(given.threads), "--warmup-steps", "1" if slow else "2"]
    ours = [sys.executable, str(HERE / "training.py"), str(model), str(pairs), *common]
    peer = [sys.executable, str(HERE / "peers.py"), "train", str(model), str(pairs), *common]
    peer += ["--steps", "2" if slow else "10"]
    keeping = ["env", *(f"{name}={value}" for name, value in KEEPING_MEMORY.items())]  # as a worker is started
    commands = {"ours": [*keeping, *ours, "--steps", "6" if slow else "20"]}
    if encoder != "whole":  # with its vocabulary the peer needs more memory than small machines have
        commands |= {"peer, fp32": peer, "peer, bf16": [*peer, "--bf16"]}
    runs = in_turn(commands, given.rounds, f"training {encoder}")
    flops = 6 * matrix_parameters(model) * median(runs["ours"], "tokens_per_step")
    floor_s = flops / floor_rate / 1e9
    return row("training", encoder, "pairs/s", runs, "pairs_per_s") | {
        "floor_s": floor_s,
        "share_of_rate": floor_s / median(runs["ours"], "s_per_step"),
        "where": where_it_goes(model, pairs, given.threads),
    }


def encoding(encoder: str, model: Path, texts: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One encoder's encoding: ours and the peer in turn."""
    few = texts.with_name(f"few-{encoder}.txt")
    lines = texts.read_text(encoding="utf-8").splitlines()[: 3000 if encoder == "mini" else 800]
    few.write_text("\n".join(lines), encoding="utf-8")
    ours = [sys.executable, str(HERE / "encoding.py"), str(model), str(few), "--threads", str(given.threads)]
    peer = [sys.executable, str(HERE / "peers.py"), "encode", str(model), str(few), "--threads", str(given.threads)]
    commands = {
        "ours": ours,
        "ours, fp32": [*ours, "--precision", "fp32"],
        "peer, fp32": peer,
        "peer, bf16": [*peer, "--bf16"],
    }
    runs = in_turn(commands, given.rounds, f"encoding {encoder}")
    return row("encoding", encoder, "texts/s", runs, "texts_per_s")


def in_turn(commands: dict[str, list[str]], rounds: int, what: str) -> dict[str, list[dict[str, Any]]]:
    """Each command once a round. A peer that the system kills, for its memory, has no row, and that is printed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for n in range(rounds):
        for name in list(runs):
            try:
                runs[name].append(run_json(commands[name]))
            except Killed:
                del runs[name]
                print(f"{what}: {name} was killed, probably for its memory", file=sys.stderr, flush=True)
                continue
            print(f"{what}, round {n + 1}: {name} {runs[name][-1]}", file=sys.stderr, flush=True)
    return runs


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def row(what: str, encoder: str, unit: str, runs: dict[str, list[dict[str, Any]]], key: str) -> dict[str, Any]:
    ratio = {
        name: statistics.median(a[key] / b[key] for a, b in zip(runs["ours"], other, strict=True))
        for name, other in runs.items()
        if name != "ours"
    }
    peaks = {name: median(several, "peak_mb") for name, several in runs.items() if "peak_mb" in several[0]}
    return {
        "what": what,
        "encoder": encoder,
        "unit": unit,
        "a_second": {name: median(several, key) for name, several in runs.items()},
        "ours_over": ratio,
        "peak_mb": peaks,
    }


def matrix_parameters(model: Path) -> int:
    """Of the matrices that every token is multiplied by."""
    from hybrid_ir.encoders.loading import load_encoder

    transformer: Any = load_encoder(str(model))[0]
    return sum(p.numel() for p in transformer.model.encoder.parameters() if p.ndim == 2)


def where_it_goes(model: Path, pairs: Path, threads: int) -> dict[str, float]:
    """Share of a step's time by what it is for, from torch's profiler, of one step after two others."""
    return run_json(
        [sys.executable, str(Path(__file__)), "--profile", str(model), str(pairs), "--threads", str(threads)]
    )


def profile(model_folder: str, pairs: str, threads: int) -> None:
    import pyarrow.parquet as pq

    from hybrid_ir.encoders import Embedder, TextReader, freeze_unused, load_encoder
    from hybrid_ir.training.step import make_optimizer, update

    quiet_libraries()
    torch.set_num_threads(threads)
    model = load_encoder(model_folder)
    embedder = Embedder(model, precision="auto", micro_batch_tokens=None)
    freeze_unused(embedder)
    optimizer, reader, table = make_optimizer(embedder, 5e-5, 0.01), TextReader.of(model), pq.read_table(pairs)
    embedder.train()

    def step(number: int) -> None:
        rows = table.slice(number * 64, 64)
        tokens = reader.read(rows["query"].to_pylist(), "query") + reader.read(rows["passage"].to_pylist(), "document")
        queries, passages = embedder(tokens).split(64)
        torch.nn.functional.cross_entropy(queries @ passages.T / 0.05, torch.arange(64)).backward()
        update(optimizer, embedder, 5e-5, 1.0)

    for number in range(2):
        step(number)
    with torch.profiler.profile() as profiler:
        step(2)
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(spent.values())
    shares = {name: sum(spent.get(key, 0.0) for key in keys) / total for name, keys in SHARES.items()}
    print(json.dumps(shares | {"the rest": 1 - sum(shares.values())}))


def page(made: dict[str, Any]) -> str:
    """The documentation's page."""
    about, lines = made["machine"], []
    features = ", ".join(name.replace("_", "-") for name in about["features"])
    lines += [
        "# Speed",
        "",
        "```bash",
        "make bench XQUAD=XQUAD_R",
        "```",
        "",
        "This page is what that measured. Ours and the peer ran in turn,",
        f"in processes of their own. Figures are medians of as many rounds as were run, which is {made['rounds']}.",
        "",
        f"The machine is an {about['processor']} with {features}, and {about['threads']} threads were used.",
        "",
        f"- Its matrix products reach {about['gflops']['bf16']:.0f} GFLOP/s in bf16",
        f"  and {about['gflops']['fp32']:.0f} in fp32, in the shape of multilingual-e5-small's feed-forward.",
        f"- Copies reach {about['gb_per_s']:.0f} GB/s.",
        f"- torch is {about['torch']}, and `precision: auto` is {about['precision']}.",
        "",
        "![Ours over each peer, as bars](speed.png)",
        "",
    ]
    for what, title, unit in (("training", "Training", "pairs a second"), ("encoding", "Encoding", "texts a second")):
        rows = [each for each in made["rows"] if each["what"] == what]
        names = list(dict.fromkeys(name for each in rows for name in each["a_second"]))
        lines += [f"## {title}", "", *WORDS[what], ""]
        lines += [f"| encoder | {' | '.join(names)} | {' | '.join(f'ours over {n}' for n in names[1:])} |"]
        lines += ["|" + "---|" * (2 * len(names))]
        for each in rows:
            speeds = [f"{each['a_second'][n]:.1f}" if n in each["a_second"] else "" for n in names]
            ratios = [f"{each['ours_over'][n]:.2f}x" if n in each["ours_over"] else "" for n in names[1:]]
            lines += [f"| {ENCODERS[each['encoder']]} | {' | '.join(speeds)} | {' | '.join(ratios)} |"]
        lines += ["", f"Figures are {unit}.", ""]
        if what == "training":
            lines += _floors(rows)
    return "\n".join(lines).rstrip() + "\n"


WORDS = {
    "training": [
        "A step is 64 pairs of XQuAD-R, tokenising, clipping and AdamW included, dropout as the encoder has it. The",
        "peer is sentence-transformers' trainer as it comes, and the same with `bf16=True`.",
    ],
    "encoding": [
        "Sentences of XQuAD-R. The peer is `SentenceTransformer.encode` as it comes, and the same with its weights in",
        "bf16.",
    ],
}


def _floors(rows: list[dict[str, Any]]) -> list[str]:
    """What a step costs at the least, and what it spends its time on."""
    lines = ["| encoder | matrix products alone (s a step) | share of that rate reached | peak memory (MB) |"]
    lines += ["|---|---|---|---|"]
    for each in rows:
        peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in each["peak_mb"].items())
        lines += [f"| {ENCODERS[each['encoder']]} | {each['floor_s']:.2f} | {each['share_of_rate']:.0%} | {peaks} |"]
    parts = list(rows[0]["where"])
    lines += ["", "Where a step's time goes, by torch's profiler:", ""]
    lines += [f"| encoder | {' | '.join(parts)} |", "|" + "---|" * (1 + len(parts))]
    for each in rows:
        shares = " | ".join(f"{each['where'][part]:.0%}" for part in parts)
        lines += [f"| {ENCODERS[each['encoder']]} | {shares} |"]
    return [*lines, ""]


def draw(made: dict[str, Any], path: Path) -> None:
    """Ours over each peer, as bars."""
    import matplotlib.pyplot as plt

    bars = [
        (f"{each['what']} {each['encoder']}\nover {name}", ratio)
        for each in made["rows"]
        for name, ratio in each["ours_over"].items()
        if name.startswith("peer")
    ]
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(bars) + 1))
    names, ratios = zip(*reversed(bars), strict=True)
    drawn = axes.barh(names, ratios, color="#3b6ea5")
    axes.bar_label(drawn, [f"{ratio:.1f}x" for ratio in ratios], padding=3)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("times as fast as the peer")
    axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=140, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xquad", type=Path, help="folder of XQuAD-R")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--encoders", default="mini,cut,whole")
    parser.add_argument(
        "--page", nargs=2, type=Path, metavar=("JSON", "PAGE"), help="write a page of what was measured"
    )
    parser.add_argument("--profile", nargs=2, metavar=("MODEL", "PAIRS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.profile:
        return profile(*given.profile, given.threads)
    if given.page:
        made = json.loads(given.page[0].read_text(encoding="utf-8"))
        given.page[1].write_text(page(made), encoding="utf-8")
        return draw(made, given.page[1].with_suffix(".png"))
    if given.xquad is None:
        parser.error("--xquad must name the folder of XQuAD-R")
    quiet_libraries()
    given.out.mkdir(parents=True, exist_ok=True)
    about = machine(given.threads)
    made: dict[str, Any] = {"machine": about, "rounds": given.rounds, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for encoder in given.encoders.split(","):
            model, pairs, texts = make_inputs(given.xquad, Path(folder), encoder=encoder)
            rate = about["gflops"][about["precision"]]
            made["rows"] += [training(encoder, model, pairs, given, rate), encoding(encoder, model, texts, given)]
            (given.out / "speed.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    (given.out / "speed.md").write_text(page(made), encoding="utf-8")
    draw(made, given.out / "speed.png")
    print(page(made))


if __name__ == "__main__":
    main()
