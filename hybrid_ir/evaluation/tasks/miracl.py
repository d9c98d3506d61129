"""MIRACL: a language's topics against that language's whole corpus; nDCG@10, R@100 and AP from TREC runs.

In: topics, judgements and corpora in the upstream layout, from folders or the hub. Out: a `TaskResult`, and the best
1000 passages of every topic in `runs/{language}.trec`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_ir.data import (
    LanguageFiles,
    checked_text,
    files_by_language,
    read_json_lines,
    resolve_files,
    title_and_text,
)
from hybrid_ir.evaluation.ranking import Encode, cross_off, measure_run, rank_passages, write_run
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.evaluation.test_sets.judged_set import texts_by_id
from hybrid_ir.evaluation.test_sets.trec_files import read_qrels, read_topics
from hybrid_ir.types import InputError, Passage

MEASURES = ("nDCG@10", "R@100", "AP")
DEPTH = 1000


@dataclass(frozen=True, slots=True)
class MiraclTest:
    """One language: topics (query_id -> text), the judgements of each (doc_id -> 0 or 1), the corpus' files."""

    topics: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    corpus: Sequence[Path]


def load_miracl(
    root: str, *, split: str = "dev", languages: Sequence[str] | None = None, corpus_root: str | None = None
) -> dict[str, MiraclTest]:
    """The test of each language (None = all that have topics of the split), by code.

    Reads `topics.miracl-v1.0-{language}-{split}.tsv` and `qrels...tsv` below `root`, and finds, below `corpus_root`
    (None = `root`), `miracl-corpus-v1.0-{language}/docs-*.jsonl[.gz]`. Raises InputError naming the file and line of
    what is wrong: a missing file, a malformed line, an id that stands twice, judgements of unknown topics.
    """
    topics_of = miracl_files("topics", root, split, languages).files
    qrels_of = miracl_files("qrels", root, split, list(topics_of)).files
    tests = {}
    for code, path in topics_of.items():
        topics = {query_id: topic.text for query_id, topic in texts_by_id(read_topics(path), "topic").items()}
        qrels = _read_qrels(qrels_of[code], topics, path)
        corpus = resolve_files(corpus_root or root, f"*miracl-corpus-v1.0-{code}/docs-*.jsonl*")
        tests[code] = MiraclTest(topics, qrels, corpus)
    return tests


def miracl_files(kind: str, root: str, split: str, languages: Sequence[str] | None) -> LanguageFiles:
    """The topics or the qrels of each language, and files that are none of a known one. Raises InputError."""
    prefix = f"{kind}.miracl-v1.0-"
    found = resolve_files(root, f"*{prefix}*-{split}.tsv")
    tagged = [(path.name.removeprefix(prefix).removesuffix(f"-{split}.tsv"), path) for path in found]
    return files_by_language(tagged, languages, f"the {kind} of {root}")


def measure_miracl(
    encode_query: Encode, encode_passage: Encode, tests: Mapping[str, MiraclTest], runs: Path
) -> TaskResult:
    """Rank each language's corpus for its topics; a corpus is read once and never held.

    A topic without a relevant judgement is left out, and counted. A relevant passage that the corpus lacks stays in
    the judgements, so that it lowers recall as it should, and is counted too.
    """
    rows, counts = {}, {}
    for code, test in tests.items():
        qrels = {q: test.qrels[q] for q in test.topics if any(test.qrels.get(q, {}).values())}
        if not qrels:
            raise InputError(f"no topic of MIRACL {code} has a relevant passage; take another split")
        absent = {doc_id for judged in qrels.values() for doc_id, relevance in judged.items() if relevance}
        vectors = encode_query([test.topics[q] for q in qrels], code)
        corpus = cross_off(absent, read_corpus(test.corpus))
        best, n_passages = rank_passages(vectors, corpus, encode_passage, depth=DEPTH, language=code)
        if not n_passages:
            raise InputError(f"the corpus of {code} is empty: {test.corpus[0]} has no passage; copy it again")
        run = best.run(list(qrels))
        write_run(runs / f"{code}.trec", run)
        rows[code] = (list(qrels), measure_run(qrels, run, MEASURES))
        counts[code] = {
            "topics": len(qrels),
            "passages": n_passages,
            "unjudged topics": sum(q not in test.qrels for q in test.topics),
            "topics without relevant": sum(q in test.qrels and q not in qrels for q in test.topics),
            "relevant not in corpus": len(absent),
            "topics with relevant not in corpus": sum(any(judged.get(d) for d in absent) for judged in qrels.values()),
        }
    left_out = ("unjudged topics", "topics without relevant", "relevant not in corpus")
    return TaskResult(MEASURES, per_query_table(rows), task_counts(counts, left_out))


def read_corpus(files: Sequence[Path]) -> Iterator[Passage]:
    """Passages of MIRACL's JSON lines (docid, title, text), whose text is title and text, as in training."""
    for path in files:
        for where, record in read_json_lines(path):
            if not isinstance(record.get("docid"), str) or not isinstance(record.get("text"), str):
                raise InputError(
                    f"{where} has no docid and text: found {', '.join(record) or 'nothing'}; copy it again"
                )
            yield Passage(record["docid"], checked_text(where, title_and_text(record)))


def _read_qrels(path: Path, topics: Mapping[str, str], topics_path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for judgement in read_qrels(path, grades=(0, 1)):
        qrels.setdefault(judgement.query_id, {})[judgement.doc_id] = judgement.grade
    if unknown := sorted(qrels.keys() - topics.keys()):
        raise InputError(
            f"{path} judges {len(unknown)} topics that {topics_path.name} lacks, the first is {unknown[0]!r}; "
            "take topics and qrels of one version and split"
        )
    return qrels
