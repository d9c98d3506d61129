"""Mewsli-X: mentions of entities in news articles against descriptions of entities in 50 languages; AP@20.

In: what upstream's `get-mewsli-x.sh` makes (version 20220518, JSON lines), and no other layout. Out: a `TaskResult`,
and the best 20 entities of every mention in `runs/{language}.trec`.

- `candidate_set_entities.jsonl`: entity_id, title, description, description_language, sentence_spans.
- `wikinews_mentions-{dev,test}.jsonl`: `context` (language, text, sentence_spans, ...) and `mentions`, each with
  example_id, entity_id and mention_span (start, end, text; characters of the context's text).

The released `wikinews_mentions_no_text-*` lack the articles' text, so they are refused; that script restores it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_ir.data import check_folder, checked_text, read_json_lines
from hybrid_ir.evaluation.ranking import Encode, cross_off, measure_run, rank_passages, write_run
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.evaluation.test_sets.judged_set import LanguageText
from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError

MEASURES = ("AP@20",)  # one entity is right, so its AP@20 is 1 / position, or 0 below the 20th
DEPTH = 20


class Mention(NamedTuple):
    """A query: the sentence around a mention, with the mention in braces, and the entity that is meant."""

    query_id: str
    language: str
    text: str
    entity_id: str


def load_mewsli(folder: str, *, split: str = "test", languages: Sequence[str] | None = None) -> list[Mention]:
    """The mentions of a split (dev or test), sorted by language; `languages` None = all.

    Raises InputError naming the file and line of what is wrong, a file without articles, or a language it lacks.
    """
    root = check_folder(folder)
    path = root / f"wikinews_mentions-{split}.jsonl"
    if not path.is_file() and (root / f"wikinews_mentions_no_text-{split}.jsonl").is_file():
        raise InputError(
            f"{folder} has only wikinews_mentions_no_text-{split}.jsonl; get-mewsli-x.sh restores the text"
        )
    mentions = [mention for where, record in read_json_lines(path) for mention in _read_article(where, record)]
    found = {mention.language for mention in mentions}
    wanted = {language_code(language) for language in languages} if languages is not None else found
    if missing := sorted(wanted - found):
        raise InputError(f"no {', '.join(missing)} in {path}; its languages are: {' '.join(sorted(found)) or 'none'}")
    return sorted((m for m in mentions if m.language in wanted), key=lambda m: m.language)


def measure_mewsli(
    encode_query: Encode, encode_passage: Encode, mentions: Sequence[Mention], folder: str, runs: Path
) -> TaskResult:
    """Rank all entities for the mentions of all languages at once; the candidates are read once and never held.

    An entity's text is its title and description. A mention whose entity is no candidate scores 0 and is counted.
    """
    if not mentions:
        raise InputError(f"no mention in {folder}; copy it again")
    path = Path(folder) / "candidate_set_entities.jsonl"
    absent = {mention.entity_id for mention in mentions}
    entities = cross_off(absent, (_read_entity(where, record) for where, record in read_json_lines(path)))
    vectors = encode_query([mention.text for mention in mentions], [mention.language for mention in mentions])
    best, n_passages = rank_passages(vectors, entities, encode_passage, depth=DEPTH)
    if not n_passages:
        raise InputError(f"{path} is empty; copy it again")
    every = best.run([mention.query_id for mention in mentions])
    if len(every) < len(mentions):
        raise InputError(f"an example_id stands twice in the mentions of {folder}; keep one of them")
    rows, counts = {}, {}
    for code in sorted({mention.language for mention in mentions}):
        qrels = {mention.query_id: {mention.entity_id: 1} for mention in mentions if mention.language == code}
        run = {query_id: every[query_id] for query_id in qrels}
        write_run(runs / f"{code}.trec", run)
        rows[code] = (list(qrels), measure_run(qrels, run, MEASURES))
        counts[code] = {
            "mentions": len(qrels),
            "entity not a candidate": sum(not judged.keys().isdisjoint(absent) for judged in qrels.values()),
        }
    return TaskResult(
        MEASURES,
        per_query_table(rows),
        task_counts(counts, ["entity not a candidate"]) | {"candidates": n_passages},
    )


def _read_article(where: str, record: Mapping[str, Any]) -> Iterator[Mention]:
    try:
        context, mentions = record["context"], record["mentions"]
        code, text = language_code(context["language"]), context["text"]
        spans = [(span["start"], span["end"]) for span in context["sentence_spans"]]
        for mention in mentions:
            start, end = (mention["mention_span"][key] for key in ("start", "end"))
            if text[start:end] != mention["mention_span"]["text"] or start >= end:
                raise InputError(
                    f"{where}: mention {mention['example_id']} is not at {start}:{end} of the text; run get-mewsli-x.sh"
                )
            around = [(first, last) for first, last in spans if first < end and start < last] or [(0, len(text))]
            first, last = around[0][0], around[-1][1]
            marked = f"{text[first:start]}{{{text[start:end]}}}{text[end:last]}"
            yield Mention(str(mention["example_id"]), code, checked_text(where, marked), str(mention["entity_id"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where} is not an article of Mewsli-X (context with language, text and sentence_spans; mentions): "
            f"{type(error).__name__} {error}; run get-mewsli-x.sh"
        ) from None


def _read_entity(where: str, record: Mapping[str, Any]) -> LanguageText:
    title, description = record.get("title") or "", record.get("description")
    if not isinstance(record.get("entity_id"), str) or not isinstance(description, str):
        raise InputError(
            f"{where} is not an entity of Mewsli-X (entity_id, title, description): "
            f"found {', '.join(record) or 'nothing'}"
        )
    try:
        code = language_code(str(record.get("description_language")))
    except InputError:  # none, or one that no prompt can be named for
        code = "und"
    return LanguageText(record["entity_id"], code, checked_text(where, f"{title} {description}".strip()), where)
