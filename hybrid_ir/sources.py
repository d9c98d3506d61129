"""Readers: benchmark files and the user's own records in, a stream of `Group | Rejected` out.

LAReQA, translated SQuAD, line-parallel text (NTREX), Tatoeba pairs, and JSON-lines or Parquet records. A bad record is
yielded as `Rejected` and reading goes on; a missing or unreadable *file* is an InputError. Reasons hold no values, so
that they can be counted. Texts are stripped, and otherwise as they came.

Documents are chosen so that a split by document never puts one text on both sides.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.languages import language_code
from hybrid_ir.types import Candidate, Collection, Group, InputError, Passage, Query, Records, Rejected


def read_lareqa(folder: str | Path, languages: Sequence[str] | None = None) -> Records:
    """XQuAD-R or MLQA-R, `{language}.json`: a question, and in each language the *sentence* that holds the answer.

    Questions are joined over languages by their id; a document is an article with all that share a question with it.
    """
    articles = _load_lareqa(folder, languages)
    yield from _join_questions({code: _questions(data, code, _answer_sentence) for code, data in articles.items()})


def lareqa_collection(folder: str | Path, name: str, languages: Sequence[str] | None = None) -> Collection:
    """The test as LAReQA defines it: every sentence of every paragraph is a candidate, equal ones included.

    `doc_id`, `group_id` and `document` are those of `read_lareqa`, so a collection can be cut to held-out documents.
    """
    articles = _load_lareqa(folder, languages)
    versions = {code: _questions(data, code, _answer_sentence) for code, data in articles.items()}
    groups = [record for record in _join_questions(versions) if isinstance(record, Group)]
    answered_by: dict[str, list[str]] = {}
    for group in groups:
        for passage in group.passages.values():
            answered_by.setdefault(passage.doc_id, []).append(group.group_id)
    unasked = [[(code, article["title"])] for code, data in articles.items() for article in data]
    document_of = connect_documents([*_links(versions), *unasked])
    candidates = [
        Candidate(
            doc_id, tuple(answered_by.get(doc_id, ())), code, sentence.strip(), document_of[code, article["title"]]
        )
        for code, data in articles.items()
        for a, article in enumerate(data)
        for p, paragraph in enumerate(article["paragraphs"])
        for s, sentence in enumerate(paragraph["sentences"])
        if sentence.strip() and (doc_id := f"{code}/{a}/{p}/{s}")
    ]
    queries = [
        Query(f"{g.group_id}/{code}", g.group_id, code, text) for g in groups for code, text in g.queries.items()
    ]
    return Collection(name, queries, candidates)


def read_squad(files: Mapping[str, str | Path], exclude_ids: frozenset[str] = frozenset()) -> Records:
    """SQuAD v1.1 JSON (plain or .gz), a file a language, joined by question id. A passage is the whole paragraph.

    A question that some languages lack has the others. `exclude_ids` keeps a test set out of training (XQuAD is a part
    of SQuAD dev): questions with these ids, and every question on a paragraph that one of them is asked about, since
    its text *is* the test set's. They come out as `Rejected`.
    """
    coded = {language_code(language): Path(path) for language, path in files.items()}
    if len(coded) < len(files):
        raise InputError(f"two files for one language among {', '.join(files)}; give one file a language")
    versions = {code: _questions(load_squad(path), code, _paragraph) for code, path in sorted(coded.items())}
    yield from _join_questions(versions, exclude_ids)


def squad_question_ids(path: str | Path) -> frozenset[str]:
    """Every question id of a SQuAD or LAReQA file, or of all of them in a folder."""
    root = Path(path)
    files = [root]
    if root.is_dir():
        files = sorted([*root.glob("*.json"), *root.glob("*.json.gz")])
        if not files:
            raise InputError(f"no .json or .json.gz file in {root}; found {_listing(root)}")
    return frozenset(
        qa["id"] for file in files for article in load_squad(file) for p in article["paragraphs"] for qa in p["qas"]
    )


def read_parallel_lines(
    files: Mapping[str, str | Path],
    document_ids: str | Path | None,
    pairing: Literal["translation", "next_sentence"] = "translation",
) -> Records:
    """Text whose line i is the same sentence in every file; `document_ids` has the document of each line.

    translation: query and passage are line i, so the query of one language with the passage of another is a translation
    pair. next_sentence: the query is line i and the passage line i + 1 of the same document. Without `document_ids`,
    which next_sentence needs, every line is its own document.
    """
    if pairing == "next_sentence" and document_ids is None:
        raise InputError("pairing next_sentence needs document_ids: a file with the document of each line")
    coded = {language_code(language): Path(path) for language, path in sorted(files.items())}
    every = [*coded.values(), *([Path(document_ids)] if document_ids else [])]
    counts = [sum(1 for _ in read_lines(path)) for path in every]
    for path, count in zip(every, counts, strict=True):
        if count != counts[0]:
            raise InputError(
                f"{every[0]} has {counts[0]} lines, {path} has {count}; line-parallel files must have as many lines"
            )
    lines = zip(*(read_lines(path) for path in coded.values()), strict=True)
    rows = ((row[0][0], dict(zip(coded, (text for _, text in row), strict=True))) for row in lines)
    documents = (
        (text.strip() for _, text in read_lines(Path(document_ids))) if document_ids else map(str, range(counts[0]))
    )
    numbered = zip(documents, rows, strict=True)
    pairs = pairwise(numbered) if pairing == "next_sentence" else ((row, row) for row in numbered)
    for (document, (number, queries)), (passage_document, (_, texts)) in pairs:
        where = f"{every[0].name}:{number}"
        if document == passage_document:
            passages = {code: _passage(code, text) for code, text in texts.items()}
            yield from checked_group(where, str(number), document, queries, passages)


def read_ntrex(
    folder: str | Path,
    languages: Sequence[str] | None = None,
    pairing: Literal["translation", "next_sentence"] = "translation",
) -> Records:
    """NTREX-128 in its upstream layout, with the documents of `DOCUMENT_IDS.tsv`."""
    yield from read_parallel_lines(ntrex_files(folder, languages), Path(folder) / "DOCUMENT_IDS.tsv", pairing)


def ntrex_files(folder: str | Path, languages: Sequence[str] | None = None) -> dict[str, Path]:
    """File of each language of an NTREX-128 folder. Of variants (eng-GB, eng-IN), the source or plainest one."""
    found = []
    for path in _folder(folder).glob("newstest2019-*.txt"):
        kind, _, tag = path.name.removeprefix("newstest2019-").removesuffix(".txt").partition(".")
        found.append(((kind != "src", len(tag), tag), tag, path))
    return _files_by_language([(tag, path) for _, tag, path in sorted(found)], languages, folder)


def read_tatoeba(folder: str | Path, languages: Sequence[str] | None = None) -> Records:
    """Tatoeba pairs with English: query and passage are the same sentence, each in two languages.

    A document is an English sentence: one that occurs in several files is one document, and one passage.
    """
    for code, path, english_path in tatoeba_files(folder, languages):
        for record in read_parallel_lines({code: path, "en": english_path}, None):
            if isinstance(record, Rejected):
                yield record
            elif "en" not in record.passages:
                yield Rejected(f"{path.name}:{record.group_id}", "no English sentence", _shorten(record.queries))
            else:
                document = record.passages["en"].doc_id
                yield Group(f"{code}/{record.group_id}", document, record.queries, record.passages)


def tatoeba_files(folder: str | Path, languages: Sequence[str] | None = None) -> list[tuple[str, Path, Path]]:
    """(language, its file, the English file) of each `tatoeba.{xxx}-eng` pair of the folder, sorted by language."""
    found = []
    for path in sorted(_folder(folder).glob("tatoeba.*-eng.*")):
        tag = path.name.split(".")[1].removesuffix("-eng")
        if not path.name.endswith(".eng"):
            found.append((tag, path))
    wanted = None if languages is None else [code for code in languages if language_code(code) != "en"]
    files = _files_by_language(found, wanted, folder)
    return [(code, path, path.with_suffix(".eng")) for code, path in sorted(files.items())]


WIDE_FIELDS = frozenset({"group_id", "document", "queries", "passages", "negatives"})
FLAT_FIELDS = frozenset({"group_id", "document", "language", "query", "passage", "negative"})


def read_records(path: str | Path) -> Records:
    """The user's own groups: a .jsonl, .jsonl.gz or .parquet file, or a folder of them (other files are passed over).

    A record is {"queries": {language: text}, "passages": {language: text or {"doc_id":, "text":}}}, with optional
    "negatives" like passages, "group_id" (default: file and line) and "document" (default: the group_id); or, in one
    language, {"language":, "query":, "passage":} with optional "negative", "group_id" and "document". Null is absent.
    """
    root = Path(path)
    for file in _record_files(root):
        name = file.name if root.is_file() else file.relative_to(root).as_posix()
        for number, record in _parquet_rows(file) if file.suffix == ".parquet" else read_lines(file):
            where = f"{name}:{number}"
            if isinstance(record, str) and not record.strip():
                continue
            try:
                group_id, document, queries, passages, negatives = _parse_record(record, where)
            except InputError as error:
                yield Rejected(where, str(error), _shorten(record))
            else:
                yield from checked_group(where, group_id, document, queries, passages, negatives)


# What the readers share, those of hub_sources.py included.


def checked_group(
    where: str,
    group_id: str,
    document: str,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    negatives: Mapping[str, Passage] | None = None,
) -> Records:
    """The group of the languages whose query and passage are both good, and a `Rejected` for each of the others."""
    good: list[str] = []
    flaws: list[tuple[str, str]] = []
    for code in sorted({*queries, *passages}):
        flaw = _pair_flaw(queries.get(code), passages.get(code))
        if flaw:
            flaws.append((code, flaw))
        else:
            good.append(code)
    unnamed = _flaw("group_id", group_id) or _flaw("document", document)
    if unnamed or not (queries or passages):
        yield Rejected(where, unnamed or "no query and no passage", _shorten(queries or group_id))
        return
    for code, flaw in flaws:
        shown = {"language": code, "query": queries.get(code), "passage": passages.get(code)}
        yield Rejected(where, f"one language left out: {flaw}" if good else flaw, _shorten(shown))
    if not good:
        return
    kept = {}
    for code, negative in sorted((negatives or {}).items()):
        flaw = _flaw("negative", negative.text) if code in good else "its language has no good pair"
        if flaw or _flaw("doc_id", negative.doc_id):
            yield Rejected(where, f"negative left out: {flaw or 'bad doc_id'}", _shorten({code: negative.text}))
        else:
            kept[code] = negative._replace(text=negative.text.strip())
    yield Group(
        group_id,
        document,
        {code: queries[code].strip() for code in good},
        {code: passages[code]._replace(text=passages[code].text.strip()) for code in good},
        kept,
    )


def connect_documents(links: Iterable[Iterable[tuple[str, str]]]) -> dict[tuple[str, str], str]:
    """Document of every (language, title): titles that a link names together, over any chain of links, share it.

    It is named by its English title, or else by the first title of its first language.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for link in links:
        keys = list(link)
        for key in keys:
            parent.setdefault(key, key)
        # The root is always the least key, which is the one that names the document.
        roots = sorted({root(key) for key in keys}, key=lambda key: (key[0] != "en", key))
        parent.update((other, roots[0]) for other in roots)
    return {key: root(key)[1] for key in parent}


def passage_id(code: str, text: str) -> str:
    """A `doc_id` by content, for sources that have none: equal texts of a language are one passage."""
    return f"{code}/{hashlib.blake2b(text.strip().encode('utf-8', 'surrogatepass'), digest_size=10).hexdigest()}"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a UTF-8 file, plain or .gz; only LF and CRLF end a line.

    Bytes that are not UTF-8 come as lone surrogates, which `checked_group` rejects. Raises InputError naming the file.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except FileNotFoundError:
        raise InputError(f"no file {path}; found {_listing(path.parent)} in its folder") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read after line {number} ({_one_line(error)}); copy it again") from error


# SQuAD JSON: articles of paragraphs of questions. `load_squad` checks the shape, so that the rest can rely on it.


class _Question(NamedTuple):
    """One language version of a question. Where `flaw` says why it has no passage, the passage is empty."""

    question_id: str
    title: str
    text: str
    passage: Passage
    flaw: str = ""


def load_squad(path: Path) -> list[dict[str, Any]]:
    """The articles of a SQuAD v1.1 or LAReQA file, plain or .gz, all with a title. Raises InputError naming it."""
    text = "\n".join(line for _, line in read_lines(path))
    try:
        articles = json.loads(text)["data"]
        for a, article in enumerate(articles):
            article["title"] = str(article.get("title") or f"article {a}")
            for paragraph in article["paragraphs"]:
                strings = [paragraph["context"], *paragraph.get("sentences", ())]
                strings += [qa[field] for qa in paragraph["qas"] for field in ("id", "question")]
                starts = [answer["answer_start"] for qa in paragraph["qas"] for answer in qa.get("answers", ())]
                breaks = [begin < end for begin, end in paragraph.get("sentence_breaks", ())]
                if not all(isinstance(s, str) for s in strings) or not all(isinstance(s, int) for s in starts):
                    raise TypeError("a text that is not a string, or a position that is not a number")
                if len(breaks) != len(paragraph.get("sentences", ())):
                    raise ValueError("a paragraph with more sentences than sentence_breaks, or fewer")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        missing = f"no {error} in it" if isinstance(error, KeyError) else _one_line(error)
        raise InputError(f"{path} is not a SQuAD or LAReQA file: {missing}; give a file of that format") from error
    return articles


def _load_lareqa(folder: str | Path, languages: Sequence[str] | None) -> dict[str, list[dict[str, Any]]]:
    tagged = [(path.stem, path) for path in sorted(_folder(folder).glob("*.json"))]
    files = _files_by_language(tagged, languages, folder)
    articles = {code: load_squad(path) for code, path in files.items()}
    for code, data in articles.items():
        if not all("sentences" in paragraph for article in data for paragraph in article["paragraphs"]):
            raise InputError(
                f"{files[code]} has paragraphs without sentences; LAReQA's files have them, plain SQuAD's do not"
            )
    return articles


def _questions(
    articles: Sequence[Mapping[str, Any]], code: str, passage_of: Callable[[Mapping, Mapping, str, str], Passage | str]
) -> list[_Question]:
    questions = []
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(article["paragraphs"]):
            for qa in paragraph["qas"]:
                found = passage_of(paragraph, qa, code, f"{a}/{p}")
                passage, flaw = (Passage("", ""), found) if isinstance(found, str) else (found, "")
                questions.append(_Question(qa["id"], article["title"], qa["question"], passage, flaw))
    return questions


def _paragraph(paragraph: Mapping[str, Any], qa: Mapping[str, Any], code: str, position: str) -> Passage | str:
    return Passage(passage_id(code, paragraph["context"]), paragraph["context"])


def _answer_sentence(paragraph: Mapping[str, Any], qa: Mapping[str, Any], code: str, position: str) -> Passage | str:
    """The sentence in which the first answer starts, or why there is none."""
    if not qa.get("answers"):
        return "no answer"
    start = qa["answers"][0]["answer_start"]
    for s, (begin, end) in enumerate(paragraph["sentence_breaks"]):
        if begin <= start < end:
            return Passage(f"{code}/{position}/{s}", paragraph["sentences"][s])
    return "answer_start is in no sentence"


def _links(versions: Mapping[str, Sequence[_Question]]) -> Iterable[set[tuple[str, str]]]:
    """Articles that must be one document: those with one question, and those with one paragraph."""
    links: dict[str, set[tuple[str, str]]] = {}
    for code, questions in versions.items():
        for q in questions:
            links.setdefault(f"question {q.question_id}", set()).add((code, q.title))
            links.setdefault(f"passage {q.passage.doc_id or q.question_id}", set()).add((code, q.title))
    return links.values()


def _join_questions(versions: Mapping[str, Sequence[_Question]], exclude_ids: frozenset[str] = frozenset()) -> Records:
    document_of = connect_documents(_links(versions))
    joined: dict[str, dict[str, _Question]] = {}
    for code, questions in versions.items():
        for q in questions:
            if code in joined.setdefault(q.question_id, {}):
                yield Rejected(f"{code}:{q.question_id}", "question id occurs twice in one file", _shorten(q.text))
            else:
                joined[q.question_id][code] = q
    excluded = {q.passage.doc_id for question_id in exclude_ids & joined.keys() for q in joined[question_id].values()}
    for question_id, every in joined.items():
        good = {code: q for code, q in every.items() if not q.flaw}
        if question_id in exclude_ids or any(q.passage.doc_id in excluded for q in good.values()):
            what = "question" if question_id in exclude_ids else "paragraph"
            shown = _shorten({code: q.text for code, q in every.items()})
            yield Rejected(question_id, f"excluded: {what} of a test set", shown)
            continue
        for code, q in every.items():
            if q.flaw:
                reason = f"one language left out: {q.flaw}" if good else q.flaw
                yield Rejected(f"{code}:{question_id}", reason, _shorten(q.text))
        if good:
            code, q = next(iter(good.items()))
            queries, passages = {c: v.text for c, v in good.items()}, {c: v.passage for c, v in good.items()}
            yield from checked_group(question_id, question_id, document_of[code, q.title], queries, passages)


# Records


def _record_files(root: Path) -> list[Path]:
    suffixes = (".jsonl", ".jsonl.gz", ".parquet")
    files = sorted(p for p in root.rglob("*") if p.name.endswith(suffixes)) if root.is_dir() else [root]
    if not files:
        raise InputError(f"no {', '.join(suffixes)} file in {root}; found {_listing(root)}")
    if not files[0].name.endswith(suffixes):
        raise InputError(f"records must be {', '.join(suffixes)} or a folder of those, got {root}")
    return files


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row). A row that is not UTF-8 comes as a string, as if it were JSON that does not parse."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for i in range(batch.num_rows):
                    number += 1
                    try:
                        row = batch.slice(i, 1).to_pylist(maps_as_pydicts="lossy")[0]
                    except UnicodeDecodeError:
                        row = "a row that is not UTF-8"
                    yield number, row
    except FileNotFoundError:
        raise InputError(f"no file {path}; found {_listing(path.parent)} in its folder") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read after row {number} ({_one_line(error)}); write it again") from error


def _parse_record(record: Any, where: str) -> tuple[str, str, dict[str, str], dict[str, Passage], dict[str, Passage]]:
    """Group id, document, queries, passages, negatives. Raises InputError with the reason to reject the record."""
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError):
            raise InputError("not valid JSON") from None
    if not isinstance(record, dict):
        raise InputError("not a JSON object")
    record = {name: value for name, value in record.items() if value is not None}
    flat = not record.keys() & {"queries", "passages"}
    unknown = sorted(record.keys() - (FLAT_FIELDS if flat else WIDE_FIELDS))
    if unknown:
        raise InputError(f"unknown field {', '.join(unknown)[:80]}")
    if flat:
        for plural, name in (("queries", "query"), ("passages", "passage"), ("negatives", "negative")):
            if name in record:
                if not isinstance(record.get("language"), str):
                    raise InputError("language is missing or not a string")
                record[plural] = {record["language"]: record[name]}
    group_id = record.get("group_id", where)
    document = record.get("document", group_id)
    for name, value in (("group_id", group_id), ("document", document)):
        if not isinstance(value, str):
            raise InputError(f"{name} must be a string")
    queries = {code: p.text for code, p in _parse_texts("queries", record).items()}
    return group_id, document, queries, _parse_texts("passages", record), _parse_texts("negatives", record)


def _parse_texts(field: str, record: Mapping[str, Any]) -> dict[str, Passage]:
    texts = record.get(field, {})
    if not isinstance(texts, dict):
        raise InputError(f"{field} must map languages to texts")
    parsed: dict[str, Passage] = {}
    for tag, value in texts.items():
        if value is None:
            continue
        code = language_code(tag)
        if code in parsed:
            raise InputError(f"{field} has two texts for one language")
        if isinstance(value, dict) and field != "queries" and value.keys() == {"doc_id", "text"}:
            doc_id, text = value["doc_id"], value["text"]
        else:
            doc_id, text = passage_id(code, value) if isinstance(value, str) else None, value
        if not isinstance(doc_id, str) or not isinstance(text, str):
            raise InputError(f"{field} has something that is neither a text nor (for a passage) a doc_id with a text")
        parsed[code] = Passage(doc_id, text)
    return parsed


# Small things


def _flaw(what: str, text: str | None) -> str:
    """Why a text cannot be used, or an empty string."""
    if text is None:
        return f"no {what}"
    if not text.strip():
        return f"empty {what}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{what} is not valid UTF-8"
    return ""


def _pair_flaw(query: str | None, passage: Passage | None) -> str:
    if passage is None or query is None:
        return _flaw("query", query) or "no passage"
    return _flaw("query", query) or _flaw("passage", passage.text) or _flaw("doc_id", passage.doc_id)


def _passage(code: str, text: str) -> Passage:
    return Passage(passage_id(code, text), text)


def _files_by_language(
    tagged: Iterable[tuple[str, Path]], languages: Sequence[str] | None, folder: str | Path
) -> dict[str, Path]:
    """File of each language that is wanted (None = all), the first of those with one code. Sorted by code."""
    found: dict[str, Path] = {}
    unknown = []
    for tag, path in tagged:
        try:
            found.setdefault(language_code(tag), path)
        except InputError:
            unknown.append(path.name)
    wanted = {language_code(language) for language in languages} if languages is not None else set(found)
    if languages is None and unknown:
        raise InputError(f"cannot tell the language of {', '.join(unknown)} in {folder}; list the languages to read")
    if missing := sorted(wanted - found.keys()):
        raise InputError(f"no {', '.join(missing)} in {folder}; its languages are: {' '.join(sorted(found)) or 'none'}")
    if not wanted:
        raise InputError(f"no file of the expected names in {folder}; found {_listing(Path(folder))}")
    return {code: found[code] for code in sorted(wanted)}


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise InputError(f"no folder {path}; found {_listing(Path(path).parent)} beside it")
    return Path(path)


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" or "nothing"


def _shorten(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
