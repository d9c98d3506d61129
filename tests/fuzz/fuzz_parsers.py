"""Every parser of outside input against bytes that atheris makes up, guided by the branches that they reach.

    make fuzz                                              # all of them, 100 thousand inputs each
    python tests/fuzz/fuzz_parsers.py records -runs=5000   # one, with libFuzzer's own options

A parser reads its input or refuses it with InputError, the service with RequestError; a record of many may be Rejected.
Anything else, and an input that takes longer than ten seconds, is a fault: atheris prints it and leaves the input in a
file crash-*. What is read must make sense, which each target says in asserts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["hybrid_ir"]):
    from hybrid_ir.config.experiment import Serve
    from hybrid_ir.config.loading import load_experiment, parse_experiment
    from hybrid_ir.data.lexicon import read_lexicon
    from hybrid_ir.data.sources.miracl import read_miracl
    from hybrid_ir.data.sources.mr_tydi import read_mr_tydi
    from hybrid_ir.data.sources.records import read_records
    from hybrid_ir.data.sources.squad import read_squad
    from hybrid_ir.data.store import open_store
    from hybrid_ir.index.filters.form import keys_of, read_filter
    from hybrid_ir.index.folder import read_manifest
    from hybrid_ir.index.passages import IndexedPassage, read_passages
    from hybrid_ir.languages import language_code
    from hybrid_ir.serving.api import EmbeddingsRequest, SearchRequest
    from hybrid_ir.serving.checks import RequestError, parse
    from hybrid_ir.tuning.search_space import load_space
    from hybrid_ir.types import Group, InputError, Rejected

FOLDER = Path(tempfile.mkdtemp(prefix="hybrid-ir-fuzz-"))


def file_of(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def check_groups(found: Any) -> None:
    for each in found:
        if isinstance(each, Rejected):
            assert each.reason, each
            continue
        assert isinstance(each, Group)
        assert each.queries, each
        assert each.queries.keys() == each.passages.keys(), each
        assert each.negatives.keys() <= each.passages.keys(), each
        for code, text in each.queries.items():
            assert code == language_code(code), each
            assert text == text.strip() != "", each
            assert all(passage.text == passage.text.strip() != "" for passage in each.passages[code]), each
            text.encode()  # no lone surrogates


def words(data: bytes) -> None:
    """`key=value` of the command line."""
    experiment = load_experiment(None, data.decode("utf-8", "replace").split("\n"))
    assert parse_experiment(experiment.model_dump(mode="json"), "itself") == experiment


def config(data: bytes) -> None:
    experiment = load_experiment(file_of("config.yaml", data))
    assert parse_experiment(experiment.model_dump(mode="json"), "itself") == experiment


def space(data: bytes) -> None:
    load_space(file_of("space.yaml", data))


def records(data: bytes) -> None:
    check_groups(read_records(file_of("records.jsonl", data)))


def parquet(data: bytes) -> None:
    check_groups(read_records(file_of("records.parquet", data)))


def compressed(data: bytes) -> None:
    check_groups(read_records(file_of("records.jsonl.gz", data)))


def squad(data: bytes) -> None:
    check_groups(read_squad({"en": file_of("squad.json", data)}))


def mr_tydi(data: bytes) -> None:
    file_of("mr-tydi/mrtydi-v1.1-swahili/train.jsonl", data)
    check_groups(read_mr_tydi(FOLDER / "mr-tydi", ["sw"], "train"))


def miracl(data: bytes) -> None:
    """Topics, judgements and a corpus, with a zero byte between them."""
    topics, qrels, corpus = [*data.split(b"\0"), b"", b""][:3]
    root = FOLDER / "miracl"
    file_of("miracl/topics.miracl-v1.0-sw-dev.tsv", topics)
    file_of("miracl/qrels.miracl-v1.0-sw-dev.tsv", qrels)
    file_of("miracl/miracl-corpus-v1.0-sw/docs-0.jsonl", corpus)
    check_groups(read_miracl(root, ["sw"], "dev", root))


def lexicon(data: bytes) -> None:
    file_of("lexicon/en-de.txt", data)
    for source, target in read_lexicon(FOLDER / "lexicon").pairs:
        assert source != target


def passages(data: bytes) -> None:
    for each in read_passages(file_of("passages.jsonl", data)):
        assert isinstance(each, IndexedPassage | Rejected)
        if isinstance(each, IndexedPassage):
            assert each.text.strip(), each
            assert each.language == language_code(each.language), each
            json.dumps(each.metadata, allow_nan=False).encode()


def store_manifest(data: bytes) -> None:
    file_of("store/manifest.json", data)
    open_store(str(FOLDER / "store"))


def index_manifest(data: bytes) -> None:
    file_of("index/manifest.json", data)
    read_manifest(FOLDER / "index")


def search_body(data: bytes) -> None:
    request = parse(data, SearchRequest, Serve())
    assert request.k >= 1
    if request.filter is not None:
        where = read_filter(request.filter)
        hash(where)
        assert all(keys_of(where))


def embeddings_body(data: bytes) -> None:
    parse(data, EmbeddingsRequest, Serve())


RECORD = (
    b'{"group_id": 1, "queries": {"en": "a?", "de": "b?"}, '
    b'"passages": {"en": "c", "de": {"doc_id": "d", "text": "e"}}}\n'
)
PASSAGE = b'{"doc_id": "1", "language": "en", "text": "t", "metadata": {"year": 2001, "a": null}}\n'
TYDI = b'{"query_id": "1", "query": "q", "positive_passages": [{"docid": "1#2", "title": "", "text": "x"}]}\n'
SQUAD = (
    b'{"data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": [{"id": "1", "question": "q?", '
    b'"answers": [{"text": "b", "answer_start": 2}]}]}]}]}'
)
WORDS = [
    "null", "NaN", "1e999", "-1", "[[[[[[", r"\\ud800", r"\xef\xbb\xbf", r"\xff\xfe", "queries", "passages",
    "negatives", "group_id", "document", "doc_id", "text", "language", "query", "passage", "en", "zh-Hant",
    "metadata",
]  # fmt: skip
"""What libFuzzer puts in now and then, in the syntax of its dictionaries."""
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "words": (words, [b"train.steps=10\nbatch.mix={monolingual: 1}", b"prepare.sources=[{kind: records, path: a}]"]),
    "config": (config, [b"seed: 1\nbatch: {alpha: 0.5}\n", b"encoder:\n  name: tiny\n  query_prefix: 'q: '\n"]),
    "space": (space, [b"axes:\n  batch.alpha: [0, 0.5]\nseeds: [0, 1]\n", b"asha: {}\nsamples: 3\n"]),
    "records": (records, [RECORD, RECORD * 2, b'{"language": "en", "query": "q", "passage": "p", "negative": "n"}\n']),
    "parquet": (parquet, [b"PAR1"]),
    "compressed": (compressed, [b"\x1f\x8b\x08\x00"]),
    "squad": (squad, [SQUAD]),
    "mr_tydi": (mr_tydi, [TYDI]),
    "miracl": (miracl, [b'1\tq?\n\x001\tQ0\t7#0\t1\n\x00{"docid": "7#0", "title": "t", "text": "x"}\n']),
    "lexicon": (lexicon, [b"house\thaus\n", b"sea sea\n"]),
    "passages": (passages, [PASSAGE]),
    "store_manifest": (store_manifest, [b'{"format": 1, "partitions": [], "eval": {}, "content_hash": ""}']),
    "index_manifest": (index_manifest, [b'{"format": 1, "shards": []}']),
    "search_body": (
        search_body,
        [
            b'{"query": ["a"], "k": 3, "languages": ["en"], "metadata": {"year": 2001}}',
            b'{"query": "a", "filter": {"must": [{"key": "a", "range": {"gte": "2024-05-31"}}], "should": ['
            b'{"must_not": [{"key": "b", "match": {"any": ["x", 1]}}]}, {"is_empty": {"key": "c"}}]}}',
        ],
    ),
    "embeddings_body": (embeddings_body, [b'{"input": ["a"], "model": "m", "encoding_format": "base64"}']),
}  # fmt: skip


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"which parser? {' '.join(TARGETS)}")
    name = sys.argv.pop(1)
    read, seeds = TARGETS[name]

    def one(data: bytes) -> None:
        try:
            read(data)
        except (InputError, RequestError) as error:
            if not str(error):
                raise AssertionError("a refusal that says nothing") from error

    words = FOLDER / "words"
    words.write_text("\n".join(f'"{word}"' for word in WORDS))
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds):
        (corpus / str(i)).write_bytes(seed)
    atheris.Setup([sys.argv[0], "-timeout=10", "-max_len=4096", f"-dict={words}", *sys.argv[1:], str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
