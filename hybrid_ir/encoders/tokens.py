"""Texts -> token ids, as an encoder reads them. In: texts and their role. Out: `Tokens`, flat columns. No torch.

Text is text. A `</s>` or `<mask>` that stands in a passage is read as the characters it is made of, and space around a
text, visible or not, is no part of it. Training, evaluation, index and search all read through `TextReader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, overload

import numpy as np

from hybrid_ir.types import OUTER_SPACE, InputError


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of several texts as columns: text i is `flat[offsets[i] : offsets[i + 1]]`.

    It reads as an array of texts: `tokens[i]` is one, `tokens[a:b]` and `tokens[numbers]` some, `a + b` a's and then
    b's.
    """

    flat: np.ndarray  # int32
    offsets: np.ndarray  # int64; one more than there are texts, from 0 to len(flat)
    cut: np.ndarray  # bool; whether the text went on behind the tokens that are here

    @classmethod
    def of(cls, texts: Sequence[Sequence[int] | np.ndarray], cut: Sequence[bool] | None = None) -> Tokens:
        """The columns of ragged rows of ids; without `cut` they are whole texts."""
        offsets = np.cumsum([0, *map(len, texts)])
        flat = np.fromiter(chain.from_iterable(texts), np.int32, offsets[-1])
        return cls(flat, offsets, np.zeros(len(texts), dtype=bool) if cut is None else np.asarray(cut, dtype=bool))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: slice | np.ndarray) -> Tokens: ...
    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray | Tokens:
        starts, ends = self.offsets[:-1][rows], self.offsets[1:][rows]
        if not isinstance(starts, np.ndarray):
            return self.flat[starts:ends]
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = self.flat[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])]
        return Tokens(flat, offsets, self.cut[rows])

    def __add__(self, other: Tokens) -> Tokens:
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Tokens(np.concatenate([self.flat, other.flat]), offsets, np.concatenate([self.cut, other.cut]))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(texts, longest) int64: ids with `pad_id` behind shorter texts, and a mask that is 1 where a token is.

        Also for decoders, whose tokenizers pad before them. No token of a decoder sees what is behind it, so that a
        text's positions and its vector are the same in any company."""
        lengths = self.lengths
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = self.flat  # a mask is filled row by row, which is the order of `flat`
        return ids, mask.astype(np.int64)


COUNTS_TWICE = 240
"""Tokens of a text of which a CPU's way back needs as much memory for attention's scores as for all else that the
layers keep: for heads of 32 dimensions, as multilingual-e5-small has."""


def micro_batches(
    lengths: np.ndarray, max_tokens: int, *, padded: bool, twice_at: int | None = None
) -> list[np.ndarray]:
    """Indices sorted by length (stable), cut so that no micro-batch holds more than `max_tokens` tokens, which count as
    `padded` to its longest text, or as they are. (A single longer text is a micro-batch of its own.)

    `twice_at`: not padded, the tokens of a text of this length count twice, those of one of double this length three
    times and so on, as its attention's scores take memory; None = as they are."""
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].tolist()
    batches, start, held = [], 0, 0.0
    for end, length in enumerate(ascending):
        counts = length if twice_at is None else length * (1 + length / twice_at)
        held += counts
        if end > start and max_tokens < (length * (end + 1 - start) if padded else held):
            batches.append(order[start:end])
            start, held = end, counts
    if ascending:
        batches.append(order[start:])
    return batches


def is_task(name: str) -> bool:
    """Whether a prompt of this name is a task's: `qa` or `qa-th`, and neither query nor document, in any language."""
    return name.partition("-")[0] not in ("query", "document")


@dataclass(frozen=True)
class TextReader:
    """How an encoder reads texts: with which tokenizer, behind which prompt, and how far. Picklable."""

    tokenizer: Any
    prefixes: Mapping[str, str]
    """Role -> what is put before its texts; "" = nothing. A role is query, document, or a task that the encoder has a
    prompt for. One that has another prompt in some language has it as ROLE-LANGUAGE too, as query-de."""
    max_tokens: int
    """Tokens of the longest text, prefix and special tokens included."""
    control_tokens: tuple[str, ...] = ()
    """What the tokenizer would read as a token of control wherever it stands: </s>, [MASK] and the like."""

    @classmethod
    def of(cls, model: Any) -> TextReader:
        """That of a model that `load_encoder` loaded."""
        prefixes = {"query": "", "document": ""} | {name: text or "" for name, text in model.prompts.items()}
        return cls(model.tokenizer, prefixes, model.max_seq_length, tuple(model.tokenizer.all_special_tokens))

    def read(self, texts: Sequence[str], role: str, languages: str | Sequence[str] | None = None) -> Tokens:
        """Token ids of the texts, each behind the prompt of `role`; `Tokens.cut` tells which were longer.

        `languages` is that of all texts, or one of each: a role may have another prompt in it. None = not known."""
        return self.read_behind(texts, self.prefix(role, languages))

    def prefix(self, role: str, languages: str | Sequence[str] | None = None) -> str | list[str]:
        """What is put before texts: one for all, or one for each where the role's depends on the language."""
        own = self.prefixes[role]
        if languages is None or not any(name.startswith(f"{role}-") for name in self.prefixes):
            return own
        if isinstance(languages, str):
            return self.prefixes.get(f"{role}-{languages}", own)
        return [self.prefixes.get(f"{role}-{language}", own) for language in languages]

    def check_task(self, name: str, setting: str) -> None:
        """Raises InputError where the encoder has no prompt of a task by this name, which a setting asks for."""
        tasks = sorted(prompt for prompt in self.prefixes if is_task(prompt))
        if not is_task(name):
            raise InputError(
                f"{setting}={name!r:.80} is no task: query and document, alone or with a language, are read by "
                f"themselves; leave it out, or name one of the encoder's tasks: {', '.join(tasks) or 'it has none'}"
            )
        if name not in tasks:
            raise InputError(
                f"{setting}={name!r:.80}, and the encoder has no prompt of that name; its tasks are "
                f"{', '.join(tasks) or 'none'}: name one of these, or add it by encoder.prompts"
            )

    def read_behind(self, texts: Sequence[str], prefix: str | Sequence[str]) -> Tokens:
        """Token ids of the texts behind what `prefix` gave for them."""
        return tokenize(self.tokenizer, list(map(self.plain, texts)), prefix, self.max_tokens)

    def plain(self, text: str) -> str:
        """The text without the space around it, and with a space in each control token: `</s>` is read as `< /s>`.

        It is the text that is changed and not the tokenizer, which could only be told not to look for control tokens:
        those of XLM-R are pieces of its vocabulary too, and would be found again.
        """
        text = text.strip(OUTER_SPACE)
        for token in self.control_tokens:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


WINDOW = 16384  # texts that `encode` sorts by length at a time


def read_ahead(
    reader: TextReader, texts: Sequence[str], role: str, languages: str | Sequence[str] | None
) -> Iterator[tuple[int, np.ndarray, Tokens]]:
    """Windows of `texts`: where each begins, its different texts' tokens, and which of these each text has. The next is
    read while one is encoded.

    Equal texts are encoded once: in two micro-batches their vectors would differ in the last bits, and not tie.
    """

    def read(start: int) -> tuple[int, np.ndarray, Tokens]:
        part, own = texts[start : start + WINDOW], languages
        if own is not None and not isinstance(own, str):
            own = own[start : start + WINDOW]
        prefix = reader.prefix(role, own)
        read = [(prefix, text) for text in part] if isinstance(prefix, str) else list(zip(prefix, part, strict=True))
        place = {each: i for i, each in enumerate(dict.fromkeys(read))}
        different = [text for _, text in place], [before for before, _ in place]
        return start, np.fromiter((place[each] for each in read), np.int64, len(read)), reader.read_behind(*different)

    starts = range(0, len(texts), WINDOW)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as beside:
        following = beside.submit(read, 0) if starts else None
        for start in starts:
            assert following is not None
            window = following.result()
            following = beside.submit(read, start + WINDOW) if start + WINDOW < len(texts) else None
            yield window


def tokenize(tokenizer: Any, texts: Sequence[str], prefix: str | Sequence[str], max_tokens: int) -> Tokens:
    """Token ids of `prefix + text`, cut to `max_tokens` with special tokens in place. `prefix`: of all, or of each.

    The same ids as `SentenceTransformer.encode(text, prompt=prefix)` feeds to the model. Of a long text only the
    beginning is read, because a tokenizer cuts last: where that beginning has more tokens than are wanted, what follows
    cannot change them, for a tokenizer that reads word by word. A beginning that has fewer is read again as a whole.
    (A single word of more than 16 characters a token is cut within. So far behind the last token that is kept, no
    tokenizer that we know of looks.)
    """
    if not texts:
        return Tokens.of([])
    before = [prefix] * len(texts) if isinstance(prefix, str) else prefix
    prefixed = [first + text for first, text in zip(before, texts, strict=True)]
    beginnings = [beginning_of(text, CHARACTERS_OF_A_TOKEN * max_tokens) for text in prefixed]
    rows, cut = _read(tokenizer, beginnings, max_tokens)
    if again := [i for i, text in enumerate(prefixed) if len(beginnings[i]) < len(text) and not cut[i]]:
        for i, row, was_cut in zip(again, *_read(tokenizer, [prefixed[i] for i in again], max_tokens), strict=True):
            rows[i], cut[i] = row, was_cut
    return Tokens.of(rows, cut)


CHARACTERS_OF_A_TOKEN = 16
"""No piece of SentencePiece is longer by default, and the mean of any language is far below."""


def beginning_of(text: str, enough: int) -> str:
    """The text up to a space behind `enough` characters, or up to twice as many where there is none."""
    if len(text) <= 2 * enough:
        return text
    space = text.find(" ", enough, 2 * enough)
    return text[: 2 * enough if space < 0 else space]


def _read(tokenizer: Any, texts: list[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
    """Ids of each text, and whether it had more of them."""
    read = tokenizer(
        texts, truncation=True, max_length=max_tokens, return_attention_mask=False, return_token_type_ids=False
    )
    if read.encodings is not None:
        return read["input_ids"], [bool(encoding.overflowing) for encoding in read.encodings]
    # A tokenizer written in Python does not say whether it cut. A text that filled all its tokens may just have fitted.
    return read["input_ids"], [len(ids) > max_tokens for ids in tokenizer(texts)["input_ids"]]
