"""What `prepare.sources` may name. No input. Out: one section a kind of source, and `SOURCES`, them by their kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hybrid_ir.config.section import Section


class Source(Section):
    use: Literal["train", "validation", "test"] | None = None
    """Where every group of this source goes; null = its documents are split by the fractions."""


class AtlasSource(Source):
    """The embedded data set: facts of CLDR in eleven languages. Needs no file and no network."""

    kind: Literal["atlas"]
    """The name of this kind of source."""
    languages: tuple[str, ...] | None = None
    """Languages to keep; null = all eleven."""


class LareqaSource(Source):
    """XQuAD-R or MLQA-R (LAReQA): a question finds the sentence that answers it, in every language."""

    kind: Literal["lareqa"]
    """The name of this kind of source."""
    path: str
    """Folder of `{language}.json` files."""
    languages: tuple[str, ...] | None = None
    """Languages to read; null = every file of the folder."""


class SquadSource(Source):
    """SQuAD-format JSON (plain or .gz) in several languages, joined by question id."""

    kind: Literal["squad"]
    """The name of this kind of source."""
    files: dict[str, str]
    """Language -> its file."""
    exclude: str | None = None
    """A SQuAD or LAReQA file or folder whose questions and paragraphs must not enter training; null = none."""


class NtrexSource(Source):
    """Line-parallel news with document ids (NTREX-128)."""

    kind: Literal["ntrex"]
    """The name of this kind of source."""
    path: str
    """Folder of NTREX-128 in its upstream layout, with its DOCUMENT_IDS.tsv."""
    languages: tuple[str, ...] | None = None
    """Languages to read; null = every file of the folder."""
    pairing: Literal["translation", "next_sentence"] = "translation"
    """translation: a sentence asks for itself; next_sentence: it asks for the one after it in the document."""


class TatoebaSource(Source):
    """Tatoeba test pairs with English (LASER v1 layout)."""

    kind: Literal["tatoeba"]
    """The name of this kind of source."""
    path: str
    """Folder of `tatoeba.{xxx}-eng.*` files."""
    languages: tuple[str, ...] | None = None
    """Languages to read beside English; null = every pair of the folder."""


class MmarcoSource(Source):
    """mMARCO triples from the hub (`hub:unicamp-dl/mmarco`) or a local folder of the same layout."""

    kind: Literal["mmarco"]
    """The name of this kind of source."""
    path: str = "hub:unicamp-dl/mmarco"
    """hub:OWNER/NAME (or hub:OWNER/NAME@REVISION), or a local folder."""
    languages: tuple[str, ...]
    """Languages to read, parallel in every triple."""
    max_groups: int | None = Field(default=None, ge=1)
    """Read at most this many triples; null = all."""


class MiraclSource(Source):
    """MIRACL topics, judgements and corpus, from the hub or local folders."""

    kind: Literal["miracl"]
    """The name of this kind of source."""
    path: str = "hub:miracl/miracl"
    """Of topics and judgements: hub:OWNER/NAME, or a local folder."""
    corpus_path: str = "hub:miracl/miracl-corpus"
    """Of the passages: hub:OWNER/NAME, or a local folder."""
    languages: tuple[str, ...]
    """Languages to read, each with questions of its own."""
    split: str = "train"
    """Which topics, as upstream spells it: train, dev."""


class MrTydiSource(Source):
    """Mr. TyDi training questions, from the hub or a local folder."""

    kind: Literal["mr_tydi"]
    """The name of this kind of source."""
    path: str = "hub:castorini/mr-tydi"
    """hub:OWNER/NAME, or a local folder."""
    languages: tuple[str, ...]
    """Languages to read, each with questions of its own."""
    split: str = "train"
    """Which questions, as upstream spells it: train, dev, test."""


class SquadShiftsSource(Source):
    """SQuADShifts (English), from the hub or a local folder."""

    kind: Literal["squadshifts"]
    """The name of this kind of source."""
    path: str = "hub:ludwigschmidt/squadshifts@refs/convert/parquet"
    """hub:OWNER/NAME@REVISION (its main branch has a script and no data), or a local folder."""
    subsets: tuple[str, ...] = ("new_wiki", "nyt", "reddit", "amazon")
    """Domains to read."""


class RecordsSource(Source):
    """The user's own groups: JSON lines or Parquet, a file or a folder of them."""

    kind: Literal["records"]
    """The name of this kind of source."""
    path: str
    """A .jsonl, .jsonl.gz or .parquet file, or a folder of them."""


AnySource = Annotated[
    AtlasSource
    | LareqaSource
    | SquadSource
    | NtrexSource
    | TatoebaSource
    | MmarcoSource
    | MiraclSource
    | MrTydiSource
    | SquadShiftsSource
    | RecordsSource,
    Field(discriminator="kind"),
]


SOURCES: dict[str, type[Source]] = {
    source.model_fields["kind"].annotation.__args__[0]: source  # type: ignore[union-attr]
    for source in AnySource.__origin__.__args__  # type: ignore[attr-defined]
}
