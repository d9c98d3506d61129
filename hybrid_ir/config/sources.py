"""What `prepare.sources` may name: one section a kind of source. And `Section`, which every part of a config is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Section):
    use: Literal["train", "validation", "test"] | None = None
    """Where every group of this source goes; null = its documents are split by the fractions."""


class AtlasSource(Source):
    """The embedded data set: facts of CLDR in eleven languages. Needs no file and no network."""

    kind: Literal["atlas"]
    languages: tuple[str, ...] | None = None
    """Languages to keep; null = all eleven."""


class LareqaSource(Source):
    """XQuAD-R or MLQA-R: a folder of `{language}.json`."""

    kind: Literal["lareqa"]
    path: str
    languages: tuple[str, ...] | None = None
    """Languages to read; null = every file of the folder."""


class SquadSource(Source):
    """SQuAD-format JSON (plain or .gz) in several languages, joined by question id."""

    kind: Literal["squad"]
    files: dict[str, str]
    """Language -> file."""
    exclude: str | None = None
    """A SQuAD or LAReQA file or folder whose questions and paragraphs must not enter training; null = none."""


class NtrexSource(Source):
    """Line-parallel news with document ids (NTREX-128)."""

    kind: Literal["ntrex"]
    path: str
    languages: tuple[str, ...] | None = None
    """Languages to read; null = every file of the folder."""
    pairing: Literal["translation", "next_sentence"] = "translation"
    """translation: a sentence asks for itself; next_sentence: it asks for the one after it in the document."""


class TatoebaSource(Source):
    """Tatoeba test pairs with English (LASER v1 layout)."""

    kind: Literal["tatoeba"]
    path: str
    languages: tuple[str, ...] | None = None
    """Languages to read beside English; null = every pair of the folder."""


class MmarcoSource(Source):
    """mMARCO triples from the hub (`hub:unicamp-dl/mmarco`) or a local folder of the same layout."""

    kind: Literal["mmarco"]
    path: str = "hub:unicamp-dl/mmarco"
    languages: tuple[str, ...]
    max_groups: int | None = Field(default=None, ge=1)
    """Read at most this many triples; null = all."""


class MiraclSource(Source):
    """MIRACL topics, judgements and corpus, from the hub or local folders."""

    kind: Literal["miracl"]
    path: str = "hub:miracl/miracl"
    corpus_path: str = "hub:miracl/miracl-corpus"
    languages: tuple[str, ...]
    split: str = "train"


class MrTydiSource(Source):
    """Mr. TyDi training questions, from the hub or a local folder."""

    kind: Literal["mr_tydi"]
    path: str = "hub:castorini/mr-tydi"
    languages: tuple[str, ...]
    split: str = "train"


class SquadShiftsSource(Source):
    """SQuADShifts (English), from the hub or a local folder."""

    kind: Literal["squadshifts"]
    path: str = "hub:squadshifts"
    subsets: tuple[str, ...] = ("new_wiki", "nyt", "reddit", "amazon")


class RecordsSource(Source):
    """The user's own groups: JSON lines or Parquet, a file or a folder of them."""

    kind: Literal["records"]
    path: str


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
