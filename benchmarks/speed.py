"""Speed in one page: each figure, what one would use instead, what the machine allows, and where the rest goes.

    python benchmarks/speed.py --xquad XQUAD_R --out runs/speed            (`make bench XQUAD=XQUAD_R`)
    python benchmarks/speed.py --xquad XQUAD_R --only search start

Ours and the peer run in turn, and figures are medians. The floor of a step, and of encoding, is its matrix products at
the rate that this machine reaches on them while nothing else runs. A search over HTTP needs `wrk`. Writes speed.json,
speed.md and speed.png; what --only leaves out stays as speed.json has it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pairs import in_turn, make_inputs, median, run_json
from speed_page import draw, page

from hybrid_ir.encoders.embedding import resolve_precision
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.machine import KEEPING_MEMORY

HERE = Path(__file__).parent
PARTS = ("encoders", "search", "http", "start")
LISTS, NPROBE, WIDTH = 1024, 16, 384  # of the index that is searched beside FAISS
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
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


def training(encoder: str, model: Path, pairs: Path, given: argparse.Namespace) -> dict[str, Any]:
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
    rate = own_rate()
    runs = in_turn(commands, given.rounds, f"training {encoder}")
    floor_s = products_s(6, model, median(runs["ours"], "tokens_per_step"), rate)
    return row("training", encoder, "pairs/s", runs, "pairs_per_s") | {
        "floor_s": floor_s,
        "share_of_rate": floor_s / median(runs["ours"], "s_per_step"),
        "where": where_it_goes(model, pairs),
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
    rate = own_rate()
    runs = in_turn(commands, given.rounds, f"encoding {encoder}")
    floor_s = products_s(2, model, runs["ours"][0]["tokens_per_text"], rate)
    return row("encoding", encoder, "texts/s", runs, "texts_per_s") | {
        "floor_s": floor_s,
        "share_of_rate": floor_s * median(runs["ours"], "texts_per_s"),
    }


def own_rate() -> float:
    """GFLOP/s in the precision that ours takes, measured anew: a shared machine's rate changes within minutes."""
    return matrix_rate(torch.bfloat16 if resolve_precision("auto", "cpu") == "bf16" else torch.float32)


def products_s(times: int, model: Path, tokens: float, rate: float) -> float:
    """Seconds of the matrix products that so many tokens need: 2 operations a parameter to encode, 6 to train."""
    return times * matrix_parameters(model) * tokens / rate / 1e9


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


def where_it_goes(model: Path, pairs: Path) -> dict[str, float]:
    """Share of a step's time by what it is for, from torch's profiler, of one step after two others.

    In one thread: with more, halves of a batch go through the layers in threads of their own, where it sees nothing.
    """
    return run_json([sys.executable, str(Path(__file__)), "--profile", str(model), str(pairs)])


def profile(model_folder: str, pairs: str) -> None:
    from timed_steps import stepper

    from hybrid_ir.encoders import load_encoder

    quiet_libraries()
    torch.set_num_threads(1)
    step, _ = stepper(load_encoder(model_folder), pairs)
    for number in range(2):
        step(number)
    with torch.profiler.profile() as profiler:
        step(2)
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(spent.values())
    shares = {name: sum(spent.get(key, 0.0) for key in keys) / total for name, keys in SHARES.items()}
    print(json.dumps(shares | {"the rest": 1 - sum(shares.values())}))


def searching(given: argparse.Namespace, gb_per_s: float) -> dict[str, Any]:
    """Threads -> batch size -> whose -> microseconds, of an IVF over made-up vectors."""
    found = {}
    for threads in range(1, given.threads + 1):
        command = [sys.executable, str(HERE / "search_cost.py"), "--kinds", "ivf", "--shards", "1", "--json"]
        command += ["--codec", f"IVF{LISTS},SQ8", "--nprobe", str(NPROBE)]
        command += ["--passages", str(given.passages), "--threads", str(threads), "--folder", str(given.out / "search")]
        (found[str(threads)],) = run_json(command).values()
        print(f"search, {threads} threads: {found[str(threads)]}", file=sys.stderr, flush=True)
    visited = given.passages * NPROBE // LISTS * WIDTH  # bytes of codes a query
    return {"passages": given.passages, "threads": found, "floor_us": visited / gb_per_s / 1e3}


def over_http(index: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Server -> requests/s and latencies, of the index that is kept in `index`."""
    command = [sys.executable, str(HERE / "serve.py"), "--xquad", str(given.xquad), "--encoder", "cut"]
    command += ["--precisions", "fp32", "int8", "--peer-passages", "2000", "--keep", str(index)]
    found = run_json([*command, "--rounds", str(given.rounds), "--seconds", "6", "--json"])
    print(f"search over HTTP: {found}", file=sys.stderr, flush=True)
    return found


def start_up(index: Path, given: argparse.Namespace) -> dict[str, float]:
    """Command -> seconds until it has done something."""
    command = [sys.executable, str(HERE / "start_up.py"), "--rounds", str(given.rounds)]
    found = run_json([*command, "--encoder", str(index / "index" / "encoder"), "--index", str(index / "index")])
    print(f"start-up: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xquad", type=Path, help="folder of XQuAD-R")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--encoders", default="mini,cut,whole")
    parser.add_argument("--passages", type=int, default=200_000, help="of the index that is searched beside FAISS")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, help="measure these alone")
    parser.add_argument("--profile", nargs=2, metavar=("MODEL", "PAIRS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.profile:
        return profile(*given.profile)
    if given.xquad is None:
        parser.error("--xquad must name the folder of XQuAD-R")
    if "http" in given.only and shutil.which("wrk") is None:
        parser.error("a search over HTTP needs wrk: install it (apt-get install wrk), or have --only leave out http")
    quiet_libraries()
    given.out.mkdir(parents=True, exist_ok=True)
    report = given.out / "speed.json"
    made: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    about = machine(given.threads)
    made |= {"machine": about, "rounds": given.rounds}
    begun = time.perf_counter()

    def keep(**parts: Any) -> None:
        made.update(parts)
        report.write_text(json.dumps(made, indent=1), encoding="utf-8")

    if "encoders" in given.only:
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            for encoder in given.encoders.split(","):
                model, pairs, texts = make_inputs(given.xquad, Path(folder), encoder=encoder)
                rows += [training(encoder, model, pairs, given), encoding(encoder, model, texts, given)]
                keep(rows=rows)
    if "search" in given.only:
        keep(search=searching(given, about["gb_per_s"]))
    index = given.out / "served"
    if "http" in given.only:
        keep(http=over_http(index, given))
    if "start" in given.only:
        if not index.is_dir():
            parser.error("start-up is measured with the index of http: measure that first")
        keep(start=start_up(index, given))
    (given.out / "speed.md").write_text(page(made), encoding="utf-8")
    draw(made, given.out / "speed.png")
    print(page(made))
    print(f"measured in {(time.perf_counter() - begun) / 60:.0f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
