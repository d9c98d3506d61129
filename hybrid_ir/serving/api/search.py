"""Searches and passages: what is asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from hybrid_ir.serving.api.coverage import Coverage, Timings
from hybrid_ir.serving.api.lexical import InRanking, Lexical
from hybrid_ir.serving.api.message import Message

MOST_LANGUAGES = 1000
MOST_KEYS = 64
MOST_FIELDS = MOST_KEYS + 3
"""Metadata keys and fields of a request. Pydantic checks none of these before it has read every item: `checks.parse`
does."""

Text = Annotated[StrictStr, Field(min_length=1, pattern=r"\S")]
Languages = Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_LANGUAGES, fail_fast=True)]
EVERY_OTHER = "*"
"""In `quotas`: each language that is not named."""
MetadataValue = StrictBool | StrictInt | StrictFloat | StrictStr


Bonus = Annotated[StrictFloat, Field(ge=-2, le=2)]
Quota = Annotated[StrictInt, Field(ge=1)]


class Preference(Message):
    """What a language's passages are worth beyond their score."""

    languages: Annotated[dict[StrictStr, Bonus], Field(min_length=1)] = Field(
        description="What is added to the score of each language's passages before hits are put in order. So a passage "
        "of another language stands before one of these where its score is higher by more than this.",
        examples=[{"de": 0.05}],
    )


class Rerank(Message):
    """How many hits a cross-encoder puts in order again."""

    candidates: Annotated[StrictInt, Field(ge=1)] = Field(
        description="So many of the best are read together with the query, one by one, and stand in the order of the "
        "reranker's scores; `serve.max_k` at most. Those behind them keep their order.",
        examples=[20],
    )


class SearchRequest(Message):
    """One query, a list of them or a passage, and what may be found."""

    query: Text | Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = Field(
        default=None,
        description="A text, or a list of texts that are searched with the same settings. Required, or `like` in its "
        "place.",
        examples=["Where does the Rhine end?", ["Where does the Rhine end?", "¿Dónde nace el Ebro?"]],
    )
    like: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        default=None,
        description="In place of `query`: the doc_id of a passage, for others like it. Its stored vector is the query, "
        "and it is left out of the hits.",
        examples=["rhine-3"],
    )
    k: StrictInt = Field(default=10, ge=1, description="Hits for each query; `serve.max_k` at most.", examples=[10])
    offset: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None,
        description="Hits to leave out at the beginning, for the next page; offset + k is `serve.max_k` at most. Pages "
        "begin with 0: they are cut from one order, whatever their k. null = one answer, not a page.",
        examples=[10],
    )
    cursor: StrictStr | None = Field(
        default=None,
        description="In place of `offset`: the `next` of the page before, with all else that it asked. Refused where "
        "another version of the index is served by now.",
        examples=["WyI5MWIyZDBjNGFhM2Y3ZTEwIiwi"],
    )
    languages: Languages | None = Field(
        default=None,
        description="Find passages of these languages only; null = all. Tags are read as the build "
        "reads them: `en`, `en-US` and `eng` are one.",
        examples=[["de", "es"]],
    )
    query_language: Text | None = Field(
        default=None,
        description="The language of the query, for an encoder that has another prompt in some languages; null = not "
        "said: the usual prompt is taken.",
        examples=["de"],
    )
    task: Text | None = Field(
        default=None,
        description="The encoder's prompt of this name is put before the query, as an instruction; null = the usual "
        "one. Refused with the names that there are, where the encoder has none of this name.",
        examples=["qa"],
    )
    metadata: Annotated[dict[StrictStr, MetadataValue], Field(min_length=1, max_length=MOST_KEYS)] | None = Field(
        default=None, description="Find passages whose metadata have exactly these values.", examples=[{"year": 2024}]
    )
    filter: dict[str, Any] | None = Field(
        default=None,
        description="Find passages whose metadata pass: all of `must`, none of `must_not`, and at least one of "
        "`should`. Each is a list of conditions, `match` (`value`, `any` or `except`), `range` (`gt`, `gte`, `lt`, "
        "`lte` of numbers or dates) or `is_empty`, or of filters again.",
        examples=[{"must": [{"key": "year", "range": {"gte": 2020}}]}],
    )
    prefer: Preference | None = Field(
        default=None,
        description="Languages to prefer, and by how much of the score. null = all alike.",
        examples=[{"languages": {"de": 0.05, "en": 0.02}}],
    )
    quotas: Annotated[dict[StrictStr, Quota], Field(min_length=1)] | None = Field(
        default=None,
        description="Hits of a language, at most; `*` stands for each language that is not named. What is over a quota "
        "is passed over, and those behind it move up. null = no quota.",
        examples=[{"de": 3, "en": 2, "*": 5}],
    )
    group_by: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        default=None,
        description="A metadata key: of passages with one value of it, as translations of one passage, the best is a "
        "hit, and names the others as `also`. k counts groups. A passage without the key is a group of its own.",
        examples=["group"],
    )
    rerank: Rerank | None = Field(
        default=None,
        description="Have the reranker (`serve.reranker`) put the best hits in order again, within "
        "`serve.rerank_deadline_ms`. Not with pages, nor with `prefer`. null = no.",
        examples=[{"candidates": 20}],
    )
    lexical: Lexical | None = Field(
        default=None,
        description="Search by words too, in an index that was built with `index.lexical`; {} = 0.3 of it "
        "and 0.7 of the encoder's. Not with `like`, `min_score` and the policy of languages. null = by the encoder "
        "alone.",
        examples=[{"fusion": "weighted", "weight": 0.3}],
    )
    min_score: Annotated[StrictFloat, Field(ge=-1, le=1)] | None = Field(
        default=None,
        description="Leave out hits whose score is below it, bonuses of `prefer` not counted; null = leave out none. "
        "What is a good score differs from encoder to encoder.",
        examples=[0.8],
    )
    highlights: StrictBool = Field(
        default=False,
        description="Say where words of the query stand in each hit, compared as BM25 compares them: without case, and "
        "by pairs of characters where words have no spaces. With `like`, words of that passage.",
        examples=[True],
    )
    fields: Annotated[list[StrictStr], Field(max_length=MOST_FIELDS, fail_fast=True)] | None = Field(
        default=None,
        description="What a hit has beside position, doc_id and score: `text`, `language`, `metadata`, or one key of "
        "it, as `metadata.year`. null = all of it; [] = nothing more.",
        examples=[["language", "metadata.year"]],
    )
    policy: Literal["strict", "best_effort"] = Field(
        default="strict",
        description="When a shard does not answer: strict = an error, best_effort = what the others found, and "
        "`coverage`.",
        examples=["best_effort"],
    )
    deadline_ms: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="Answer within this time; beyond it 504, with what was found. `serve.deadline_ms` at most.",
        examples=[500],
    )


class OtherPassage(Message):
    """A passage of the same group as a hit."""

    doc_id: str = Field(description="The passage's id in the input.", examples=["rhein-3"])
    language: str = Field(description="BCP 47 primary subtag.", examples=["de"])
    score: float = Field(description="Cosine of query and passage.", examples=[0.81])


class Hit(Message):
    """A passage that was found."""

    position: int = Field(description="From 1, best first; on a page from offset + 1.", examples=[1])
    doc_id: str = Field(description="The passage's id in the input.", examples=["rhine-3"])
    text: str | None = Field(
        default=None,
        description="The whole passage. It is left out where `fields` does not name it, as the next two are.",
        examples=["Der Rhein mündet in die Nordsee."],
    )
    language: str | None = Field(default=None, description="BCP 47 primary subtag.", examples=["de"])
    metadata: dict[str, MetadataValue] | None = Field(
        default=None, description="As in the input, or those keys that `fields` names.", examples=[{"year": 2024}]
    )
    score: float = Field(
        description="Cosine of query and passage; with `lexical` the fused score, or BM25's where nothing is fused.",
        examples=[0.83],
    )
    dense: InRanking | None = Field(
        default=None, description="Of a fused hit: where the encoder's ranking has it, if its first `depth` do."
    )
    lexical: InRanking | None = Field(default=None, description="The same of the ranking by BM25.")
    ranked_score: float | None = Field(
        default=None,
        description="With `prefer`: score and the language's bonus, by which hits are in order.",
        examples=[0.88],
    )
    reranked: bool | None = Field(
        default=None,
        description="With `rerank`: whether the reranker has scored it in time. Those that it has not stand behind.",
        examples=[True],
    )
    rerank_score: float | None = Field(
        default=None,
        description="With `rerank`, of a hit that was scored: from 0 to 1, the sigmoid of the reranker's output, by "
        "which hits are in order.",
        examples=[0.97],
    )
    also: list[OtherPassage] | None = Field(
        default=None,
        description="With `group_by`: other passages of the group among those that were considered, best first.",
    )
    piece: tuple[int, int] | None = Field(
        default=None,
        description="Of an index whose long passages are in pieces: which part of the text has the score, from a "
        "character (code point, from 0) to before another.",
        examples=[[0, 31]],
    )
    highlights: list[tuple[int, int]] | None = Field(
        default=None,
        description="With `highlights`: where words of the query stand in the text, from a character (code point, from "
        "0) to before another.",
        examples=[[[4, 9]]],
    )


class Reranked(Message):
    """How far the reranker came."""

    candidates: int = Field(description="Hits that it was to score.", examples=[20])
    scored: int = Field(description="Those that it has scored in time.", examples=[20])


class QueryResult(Message):
    """What was found for one query."""

    hits: list[Hit] = Field(
        description="At most k, best first; of equal scores the passage indexed first. With `prefer`, of equal sums "
        "that with the higher score."
    )
    groups_cut: bool | None = Field(
        default=None,
        description="With `group_by`: whether there may be more groups than were found. As many passages were "
        "considered as a search may, and they are of fewer than k groups.",
        examples=[False],
    )
    reranked: Reranked | None = Field(
        default=None, description="With `rerank`: how many hits were to be scored, and how many were."
    )
    cut: bool | None = Field(
        description="Whether the query was longer than the encoder reads, so that only its beginning was searched for; "
        "null where it was not encoded before the deadline.",
        examples=[False],
    )


class SearchResponse(Message):
    """Hits of every query, and how much of the index answered."""

    results: list[QueryResult] = Field(description="One for each query, in their order.")
    coverage: Coverage
    space_id: str = Field(description="The encoder that made every vector involved.", examples=["3f0c9a1be27d4e55"])
    index_version: str = Field(description="Changes with whatever an answer depends on.", examples=["91b2d0c4aa3f7e10"])
    next: str | None = Field(
        default=None,
        description="Of a page: the `cursor` of the next one. null = there is none, or `serve.max_k` ends the pages.",
        examples=["WyI5MWIyZDBjNGFhM2Y3ZTEwIiwi"],
    )
    timings_ms: Timings


class Passage(Message):
    """A passage of the index."""

    doc_id: str = Field(description="The passage's id in the input.", examples=["rhine-3"])
    text: str = Field(description="The whole passage.", examples=["Der Rhein mündet in die Nordsee."])
    language: str = Field(description="BCP 47 primary subtag.", examples=["de"])
    metadata: dict[str, MetadataValue] = Field(description="As in the input.", examples=[{"year": 2024}])
    index_version: str = Field(description="The version that it was read from.", examples=["91b2d0c4aa3f7e10"])
