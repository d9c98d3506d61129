"""What pieces bring where passages are longer than an encoder reads: XQuAD-R's articles as documents, by document.

    python benchmarks/long_passages.py --xquad XQUAD_R --encoder multilingual-e5-small --work /tmp/long

A document is the five paragraphs of one article in one language: 48 in each language. A question is about one of its
paragraphs, and its documents are the article in every language. Documents are cut off where the encoder ends, or cut
into pieces of so many tokens (`--tokens`), each with the score of its best one. Prints a line of JSON a way: AP, RR@10
and nDCG@10 of all documents in one pool (`multi`), of those in the question's language (`mono`) and of those in each
other language (`cross`), all as means over languages; how many documents were cut off; and the seconds it took.
`mono_late` is AP of the questions whose answer is in the last two paragraphs, in their own language.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.encoders import TextReader, cut_into_pieces, encode, load_encoder, quiet_libraries
from hybrid_ir.evaluation.test_sets.layouts import load_test_set
from hybrid_ir.evaluation.test_sets.measure import MEASURES, measure_judged

LATE = 3
"""The first of the paragraphs that are late in their article, counted from 0."""


def write_test_set(xquad: Path, folder: Path, languages: list[str] | None) -> set[str]:
    """Write articles and questions as a `judged` test set; the ids of the questions whose paragraph is late."""
    folder.mkdir(parents=True, exist_ok=True)
    passages, queries, judgements, late = [], [], [], set()
    files = sorted(file for file in xquad.glob("*.json") if languages is None or file.stem in languages)
    languages = [file.stem for file in files]
    for file in files:
        for number, article in enumerate(json.loads(file.read_text(encoding="utf-8"))["data"]):
            text = "\n".join(paragraph["context"] for paragraph in article["paragraphs"])
            passages.append({"doc_id": f"{file.stem}/{number}", "text": text, "language": file.stem})
            for place, paragraph in enumerate(article["paragraphs"]):
                for question in paragraph["qas"]:
                    query_id = f"{file.stem}/{question['id']}"
                    queries.append({"query_id": query_id, "text": question["question"], "language": file.stem})
                    late |= {query_id} if place >= LATE else set()
                    judgements += [
                        {"query_id": query_id, "doc_id": f"{language}/{number}", "grade": 1} for language in languages
                    ]
    for name, records in (("passages", passages), ("queries", queries), ("judgements", judgements)):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xquad", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="*", default=[512, 256, 128])
    parser.add_argument("--languages", nargs="*", default=None, help="Of documents and questions; all by default.")
    parser.add_argument("--overlap", type=int, default=None, help="Of a piece; by default an eighth of it.")
    given = parser.parse_args()
    quiet_libraries()
    late = write_test_set(given.xquad, given.work / "test", given.languages)
    test = load_test_set("judged", str(given.work / "test"))
    model = load_encoder(given.encoder)
    vectors = encode(model, [query.text for query in test.queries.values()], role="query")
    for tokens in (None, *given.tokens):
        cut_off = 0
        begun = time.perf_counter()

        def encode_passages(texts: Sequence[str], languages: Any) -> np.ndarray:
            nonlocal cut_off
            cut = np.zeros(len(texts), dtype=bool)
            made = encode(model, texts, role="document", languages=languages, cut=cut)
            cut_off += int(cut.sum())
            return made

        overlap = given.overlap if given.overlap is not None else (tokens or 0) // 8
        cut = None if tokens is None else partial(cut_into_pieces, TextReader.of(model), tokens=tokens, overlap=overlap)
        result = measure_judged(test, lambda texts, languages: vectors, encode_passages, given.work / "runs", cut)
        row: dict[str, object] = {"tokens": tokens, "overlap": overlap if tokens else None, "cut_off": cut_off}
        row |= {name: result.counts[name] for name in ("pieces", "passages in pieces") if name in result.counts}
        assert result.per_pair is not None
        pairs = result.per_pair.to_pandas()
        own = pairs[pairs.language == pairs.passage_language]
        for name, table in (
            ("multi", result.per_query.to_pandas()),
            ("mono", own),
            ("cross", pairs[pairs.language != pairs.passage_language]),
            ("mono_late", own[own.query_id.isin(late)]),
        ):
            means = table.groupby("language")[list(MEASURES)].mean().mean()
            row |= {f"{measure}_{name}": round(float(means[measure]), 4) for measure in ("AP", "RR@10", "nDCG@10")}
        print(json.dumps({**row, "seconds": round(time.perf_counter() - begun, 1)}), flush=True)


if __name__ == "__main__":
    main()
