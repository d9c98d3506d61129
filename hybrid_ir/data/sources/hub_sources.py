"""Readers of the hub's large data sets: mMARCO, MIRACL, Mr. TyDi and SQuADShifts, as a stream of `Group | Rejected`.

`root` is a folder with the upstream layout, or `hub:OWNER/NAME` (`hub:OWNER/NAME@REVISION`), whose files are downloaded
once and kept in the hub's cache. `datasets` >= 4 runs no loading scripts, so these read the repositories' data files.
Tables come through `datasets`, memory-mapped or streamed; lines come through `read_lines`, because the text and JSON
readers of `datasets` stop a whole file at the first bad line, and cannot say which it was.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.data.groups import checked_group, connect_documents, passage_id
from hybrid_ir.data.sources.squad import load_squad
from hybrid_ir.data.text_files import read_lines
from hybrid_ir.languages import language_code, language_name
from hybrid_ir.types import InputError, Passage, Records, Rejected

TRIPLES_AT_ONCE = 1024


def read_mmarco(root: str | Path, languages: Sequence[str], limit: int | None = None) -> Records:
    """mMARCO's training triples: a query, its positive and a hard negative, parallel in every language asked for.

    One group a triple, the first `limit` of them (None = all 39.8M). A document is all queries and positives that
    triples connect. The triples are read twice, first for the documents: that takes some 300 bytes a distinct query or
    positive (0.3 GB for all). Texts stay on disk, memory-mapped by `datasets` (whose cache takes 3 to 6 GB a language);
    memory holds 16 bytes of index a passage, 140 MB a language.
    """
    codes = _codes(languages)
    names = {code: language_name(code).lower() for code in codes}
    triples = _one(root, "data/triples.train.ids.small.tsv")
    collections = {c: _one(root, f"data/google/collections/{n}_collection.tsv") for c, n in names.items()}
    questions = {c: _one(root, f"data/google/queries/train/{n}_queries.train.tsv") for c, n in names.items()}

    def rows() -> Iterator[tuple[str, list[str]]]:
        return islice(read_tsv(triples, 3), limit)

    links = {(fields[0], fields[1]) for _, fields in rows() if _are_ids(fields)}
    document_of = connect_documents((("query", query), ("passage", passage)) for query, passage in links)
    del links
    passages_of = {code: open_texts(path) for code, path in collections.items()}
    queries_of = {code: open_texts(path) for code, path in questions.items()}
    stream = rows()
    while chunk := list(islice(stream, TRIPLES_AT_ONCE)):
        good = []
        for where, fields in chunk:
            if _are_ids(fields):
                good.append((where, fields))
            else:
                yield Rejected(where, "not three ids", "\t".join(fields)[:200])
        if not good:
            continue
        columns = [[int(fields[i]) for _, fields in good] for i in range(3)]
        texts = {
            code: list(zip(queries_of[code](columns[0]), *map(passages_of[code], columns[1:]), strict=True))
            for code in codes
        }
        for i, (where, (query, positive, negative)) in enumerate(good):
            row = {code: texts[code][i] for code in codes}
            yield from checked_group(
                where,
                f"{query}/{positive}/{negative}",
                document_of["query", query],
                {code: text for code, (text, _, _) in row.items() if text is not None},
                {code: Passage(f"{code}/{positive}", text) for code, (_, text, _) in row.items() if text is not None},
                {code: Passage(f"{code}/{negative}", text) for code, (_, _, text) in row.items() if text is not None},
            )


def read_miracl(root: str | Path, languages: Sequence[str], split: str, corpus_root: str | Path) -> Records:
    """MIRACL topics with their judged passages, one monolingual group a question.

    The passage is the first (by docid) judged relevant that the corpus has, the negative the first judged irrelevant;
    its text is title and text. A document is all articles that some question finds relevant; negatives do not connect.
    The corpus is read once a language, and only judged passages are kept: at most some tens of MB.
    """
    for code in _codes(languages):
        topics = _one(root, f"*topics.miracl-v1.0-{code}-{split}.tsv")
        qrels = _one(root, f"*qrels.miracl-v1.0-{code}-{split}.tsv")
        corpus = resolve_files(corpus_root, f"*miracl-corpus-v1.0-{code}/docs-*.jsonl*")
        judged: dict[str, tuple[list[str], list[str]]] = {}
        for where, fields in read_tsv(qrels, 4):
            if len(fields) != 4 or fields[3] not in ("0", "1"):
                yield Rejected(where, "not a judgement: query_id, Q0, docid, 0 or 1", "\t".join(fields)[:200])
            else:
                judged.setdefault(fields[0], ([], []))[fields[3] == "1"].append(fields[2])
        articles = [{("", _article(doc_id)) for doc_id in relevant} for _, relevant in judged.values()]
        document_of = connect_documents(articles)
        texts = yield from _corpus_texts(corpus, {d for pair in judged.values() for ids in pair for d in ids})
        for where, fields in read_tsv(topics, 2):
            if len(fields) != 2:
                yield Rejected(where, "not a topic: query_id, query", "\t".join(fields)[:200])
                continue
            query_id, query = fields
            irrelevant, relevant = judged.get(query_id, ((), ()))
            positive = next((d for d in sorted(relevant) if d in texts), None)
            negative = next((d for d in sorted(irrelevant) if d in texts), None)
            if positive is None:
                reason = "its relevant passages are not in the corpus" if relevant else "no passage is judged relevant"
                yield Rejected(where, reason, query[:200])
                continue
            yield from checked_group(
                where,
                f"{code}/{query_id}",
                f"{code}/{document_of['', _article(positive)]}",
                {code: query},
                {code: Passage(f"{code}/{positive}", texts[positive])},
                {code: Passage(f"{code}/{negative}", texts[negative])} if negative else None,
            )


def read_mr_tydi(root: str | Path, languages: Sequence[str], split: str) -> Records:
    """Mr. TyDi questions with their passages, one monolingual group a question; a document is the positive's article.

    The first positive and the first negative are used; their text is title and text.
    """
    for code in _codes(languages):
        name = language_name(code).lower()
        for path in resolve_files(root, f"*mrtydi-v1.1-{name}/{split}.jsonl*"):
            for where, record in _read_json_lines(path):
                if isinstance(record, Rejected):
                    yield record
                    continue
                query_id, query = record.get("query_id"), record.get("query")
                positive = _first_passage(record.get("positive_passages"), code)
                negative = _first_passage(record.get("negative_passages"), code)
                if not isinstance(query_id, str) or not isinstance(query, str) or positive is None:
                    yield Rejected(where, "no query_id, query or positive passage with its text", str(record)[:200])
                    continue
                yield from checked_group(
                    where,
                    f"{code}/{query_id}",
                    _article(positive.doc_id),
                    {code: query},
                    {code: positive},
                    {code: negative} if negative else None,
                )


def read_squadshifts(root: str | Path, subsets: Sequence[str] = ("new_wiki", "nyt", "reddit", "amazon")) -> Records:
    """SQuADShifts (English): a question and its paragraph. Reads `{subset}_v1.0.json`, or Parquet in folders by subset.

    The hub's own repository holds only a script: of it, the hub's Parquet conversion is read. A document is an article
    where the subset names more than one, otherwise a paragraph.
    """
    where_to = f"{root}@refs/convert/parquet" if str(root).startswith("hub:") and "@" not in str(root) else root
    for subset in subsets:
        # Upstream names one file differently from its subset: amazon_reviews_v1.0.json.
        files = resolve_files(
            where_to, f"*{subset}_v1.0.json*", f"*{subset}_reviews_v1.0.json*", f"*{subset}/*.parquet"
        )
        rows = [row for path in files for row in (_squad_rows(path) if ".json" in path.name else _parquet_rows(path))]
        titled = len({row["title"] for row in rows}) > 1
        for row in rows:
            doc_id = passage_id("en", row["context"] or "")
            yield from checked_group(
                f"{subset}:{row['id']}",
                f"{subset}/{row['id']}",
                f"{subset}/{row['title'] if titled else doc_id}",
                {"en": row["question"] or ""},
                {"en": Passage(doc_id, row["context"] or "")},
            )


def resolve_files(root: str | Path, *patterns: str) -> list[Path]:
    """The files, sorted, whose path below `root` matches any of the patterns; `*` also matches `/`.

    `root` is a folder or `hub:OWNER/NAME[@REVISION]`, of which only these files are downloaded. Raises InputError if
    there are none.
    """
    folder = Path(root)
    if str(root).startswith("hub:"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        name, _, revision = str(root).removeprefix("hub:").partition("@")
        try:
            folder = Path(
                snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=list(patterns))
            )
        except (OSError, HFValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"cannot get {' or '.join(patterns)} of {root} ({reason}); "
                "connect to the hub, or set the path of a local copy"
            ) from error
    elif not folder.is_dir():
        raise InputError(f"no folder {root}; set the path of a local copy, or hub:OWNER/NAME")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    matched = [folder / name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not matched:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
        raise InputError(
            f"no file {' or '.join(patterns)} in {root}; found {shown}; "
            "set the path of a copy with the upstream layout that has this language and split"
        )
    return matched


def open_texts(path: Path) -> Callable[[Sequence[int]], list[str | None]]:
    """A look-up of texts by id (None: no such id) in a file of `id TAB text` lines, memory-mapped by `datasets`."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        table = datasets.load_dataset(
            "csv",
            data_files=glob.escape(str(path)),
            split="train",
            sep="\t",
            names=["id", "text"],
            features=datasets.Features({"id": datasets.Value("int64"), "text": datasets.Value("string")}),
            # As the file is: a quote, the word "null" and a lone carriage return mean nothing to it.
            quoting=3,
            na_filter=False,
            lineterminator="\n",
            encoding_errors="replace",
        )
    except (DatasetGenerationError, ValueError) as error:  # ValueError: an empty file
        reason = str(error.__cause__ or error)[:200]
        raise InputError(f"{path} is not lines of an id, a tab and a text ({reason}); copy it again") from error
    ids = table.data.column("id").to_numpy()
    order = np.argsort(ids, kind="stable")
    ids = ids[order]

    def texts_of(wanted: Sequence[int]) -> list[str | None]:
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        found = ids[at] == np.asarray(wanted)
        texts = iter(table[order[at[found]].tolist()]["text"])
        return [next(texts) if there else None for there in found]

    return texts_of


def read_tsv(path: Path, fields: int) -> Iterator[tuple[str, list[str]]]:
    """(file:line, up to so many fields) of each line of a tab-separated file, unquoted. The last keeps its tabs."""
    for number, line in read_lines(path):
        yield f"{path.name}:{number}", line.split("\t", fields - 1)


def title_and_text(document: Mapping[str, Any]) -> str:
    """Text of a MIRACL or Mr. TyDi passage, as it is trained on and ranked."""
    return f"{document.get('title') or ''} {document['text']}".strip()


def _one(root: str | Path, pattern: str) -> Path:
    return resolve_files(root, pattern)[0]


def _codes(languages: Sequence[str]) -> list[str]:
    codes = sorted({language_code(language) for language in languages})
    if not codes:
        raise InputError("languages is empty; list the languages to read, for example [en, sw]")
    return codes


def _are_ids(fields: Sequence[str]) -> bool:
    return len(fields) == 3 and all(field.isascii() and field.isdigit() and len(field) < 19 for field in fields)


def _article(doc_id: str) -> str:
    """Wikipedia article of a passage: the part of its docid before `#`."""
    return doc_id.partition("#")[0]


def _read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, object or `Rejected`)"""
    for number, line in read_lines(path):
        where = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        yield where, record if isinstance(record, dict) else Rejected(where, "not a JSON object", line[:200])


def _corpus_texts(corpus: Sequence[Path], wanted: set[str]) -> Generator[Rejected, None, dict[str, str]]:
    """Yields the corpus lines that cannot be read; returns {docid: title and text} of the wanted ones."""
    texts: dict[str, str] = {}
    for path in corpus:
        for _, record in _read_json_lines(path):
            if isinstance(record, Rejected):
                yield record
            elif record.get("docid") in wanted and isinstance(record.get("text"), str):
                texts[record["docid"]] = title_and_text(record)
    return texts


def _first_passage(passages: Any, code: str) -> Passage | None:
    """The first passage that has a docid and a text."""
    for passage in passages if isinstance(passages, list) else ():
        if isinstance(passage, dict) and all(isinstance(passage.get(key), str) for key in ("docid", "text")):
            return Passage(f"{code}/{passage['docid']}", title_and_text(passage))
    return None


def _squad_rows(path: Path) -> Iterator[dict[str, Any]]:
    for article in load_squad(path):
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield {**qa, "title": article["title"], "context": paragraph["context"]}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import datasets
    import pyarrow as pa

    try:
        rows = datasets.load_dataset("parquet", data_files=glob.escape(str(path)), split="train", streaming=True)
        yield from rows.select_columns(["id", "title", "context", "question"])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} has no readable id, title, context and question: {str(error)[:200]}") from error
