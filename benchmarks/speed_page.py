"""The page of `speed.py`'s figures, and its picture. In: what speed.json has. Out: Markdown, a PNG.

python benchmarks/speed_page.py runs/speed/speed.json docs/speed.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ENCODERS = {
    "mini": "mini, 7 million parameters",
    "cut": "multilingual-e5-small, vocabulary cut to the texts",
    "whole": "multilingual-e5-small, whole",
}


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
        rows = [each for each in made.get("rows", ()) if each["what"] == what]
        if not rows:
            continue
        names = list(dict.fromkeys(name for each in rows for name in each["a_second"]))
        lines += [f"## {title}", "", *WORDS[what], ""]
        lines += [f"| encoder | {' | '.join(names)} | {' | '.join(f'ours over {n}' for n in names[1:])} |"]
        lines += ["|" + "---|" * (2 * len(names))]
        for each in rows:
            speeds = [f"{each['a_second'][n]:.1f}" if n in each["a_second"] else "" for n in names]
            ratios = [f"{each['ours_over'][n]:.2f}x" if n in each["ours_over"] else "" for n in names[1:]]
            lines += [f"| {ENCODERS[each['encoder']]} | {' | '.join(speeds)} | {' | '.join(ratios)} |"]
        lines += ["", f"Figures are {unit}.", ""]
        lines += _floors(rows) if what == "training" else _encoding_floors(rows)
    for part, write in (("search", _search), ("http", _http), ("start", _start)):
        if part in made:
            lines += write(made[part])
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
    lines += ["", "Where a step's time goes in one thread, by torch's profiler:", ""]
    lines += [f"| encoder | {' | '.join(parts)} |", "|" + "---|" * (1 + len(parts))]
    for each in rows:
        shares = " | ".join(f"{each['where'][part]:.0%}" for part in parts)
        lines += [f"| {ENCODERS[each['encoder']]} | {shares} |"]
    return [*lines, ""]


def _encoding_floors(rows: list[dict[str, Any]]) -> list[str]:
    """What a text costs at the least."""
    lines = ["| encoder | matrix products alone (ms a text) | share of that rate reached |", "|---|---|---|"]
    for each in rows:
        lines += [f"| {ENCODERS[each['encoder']]} | {1000 * each['floor_s']:.2f} | {each['share_of_rate']:.0%} |"]
    return [*lines, ""]


def _search(found: dict[str, Any]) -> list[str]:
    lines = ["## Search beside FAISS", ""]
    lines += [f"{found['passages']:,} made-up vectors of 384 dimensions, IVF1024,SQ8 with nprobe 16, the ten best."]
    lines += ["*Scored again* is FAISS's `IndexRefine` over float16 vectors, which returns what ours does. One shard,"]
    lines += ["in this process. Figures are microseconds of a whole batch. To read the codes of the visited lists once"]
    lines += [f"takes {found['floor_us']:.0f} microseconds a query at the rate of copies.", ""]
    lines += ["| threads | queries | FAISS | FAISS, scored again | ours | over FAISS | over scored again |"]
    lines += ["|" + "---|" * 7]
    for threads, sizes in found["threads"].items():
        for size, took in sizes.items():
            bare, again, ours = took.values()
            cells = f"{bare:.0f} | {again:.0f} | {ours:.0f} | {ours / bare:.2f} | {ours / again:.2f}"
            lines += [f"| {threads} | {size} | {cells} |"]
    return [*lines, ""]


def _http(found: dict[str, Any]) -> list[str]:
    lines = ["## Search over HTTP", ""]
    lines += [
        "13,014 sentences of XQuAD-R in 2 shards, multilingual-e5-small with its vocabulary cut to the texts, asked"
    ]
    lines += [
        "by `wrk` with 32 connections and with one. No request asks what one before it asked. The peer is FastAPI on"
    ]
    lines += ["uvicorn, `SentenceTransformer.encode` a request and one `IndexFlatIP`, with 2,000 of the passages.", ""]
    lines += ["| server | requests/s at 32 | over peer | p50, p99 at 32 (ms) | p50 at 1 (ms) | over peer |"]
    lines += ["|" + "---|" * 6]
    peer = found["peer"]
    for name, its in found.items():
        more, longer = its["rps32"] / peer["rps32"], its["p50_1"] / peer["p50_1"]
        ratios = ("", "") if name == "peer" else (f"{more:.2f}x", f"{longer:.2f}x")
        name = name if name == "peer" else "`serve.placement={}`, `serve.precision={}`".format(*name.split())
        lines += [f"| {name} | {its['rps32']:.0f} | {ratios[0]} | {its['p50_32']:.0f}, {its['p99_32']:.0f} "
                  f"| {its['p50_1']:.1f} | {ratios[1]} |"]  # fmt: skip
    return [*lines, ""]


def _start(found: dict[str, float]) -> list[str]:
    lines = ["## Start-up", "", "| command | seconds |", "|---|---|"]
    return [*lines, *(f"| {name} | {took:.1f} |" for name, took in found.items()), ""]


def draw(made: dict[str, Any], path: Path) -> None:
    """Ours over each peer, as bars."""
    import matplotlib.pyplot as plt

    bars = [
        (f"{each['what']} {each['encoder']}\nover {name}", ratio)
        for each in made.get("rows", ())
        for name, ratio in each["ours_over"].items()
        if name.startswith("peer")
    ]
    if http := made.get("http"):
        over = http["peer"]["rps32"]
        bars += [(f"HTTP, {name}\nover peer", its["rps32"] / over) for name, its in http.items() if name != "peer"]
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
    parser.add_argument("json", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    made = json.loads(given.json.read_text(encoding="utf-8"))
    given.page.write_text(page(made), encoding="utf-8")
    draw(made, given.page.with_suffix(".png"))


if __name__ == "__main__":
    main()
