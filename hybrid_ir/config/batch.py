"""What a global batch is. No input. Out: `Batch`, the section of a config, and the kinds of batches."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from hybrid_ir.config.section import Section, setting

Kind = Literal["monolingual", "cross_lingual", "multilingual"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Batch(Section):
    size: int = setting(64, on_resume="keep", ge=2)
    """Groups in a global batch, over all workers."""
    mix: dict[Kind, Annotated[float, Field(ge=0)]] | None = setting(None, on_resume="keep")
    """Weight of each kind of batch; need not sum to 1. Null = what `alpha` says."""
    alpha: float = setting(0.5, on_resume="keep", ge=0, le=1)
    """The paper's alpha: {monolingual: alpha, cross_lingual: 1 - alpha}. Used when `mix` is null."""
    cross_lingual: Literal["per_row", "per_batch"] = setting("per_row", on_resume="keep")
    """per_row: every row its own language pair (the paper's X-Y); per_batch: one ordered pair a batch."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = setting(None, on_resume="keep")
    """Train on these (ISO 639-1 codes), all pairs of them; null = every language and pair that the store can serve."""
    language_temperature: float | None = setting(None, on_resume="keep", gt=0)
    """Languages and pairs weigh groups ** (1 / temperature); 1 = by size; null = uniform."""
    sources: dict[str, float | dict[str, float]] | None = setting(None, on_resume="keep")
    """Weight of each source, by the name that `prepare` prints: {lareqa: 2, ntrex: 1}; or of each kind's sources:
    {monolingual: {ntrex: 1}, cross_lingual: {lareqa: 1}}. One that is not named is not trained on. Null = all of them,
    by their groups."""
    one_source: bool = setting(False, on_resume="keep")
    """Every batch is of one source, so that no positive is told from its negatives by where it is from; false = sources
    are mixed within a batch."""
    tasks: dict[str, str] = setting({}, on_resume="keep")
    """Source -> the name of the encoder's prompt (`encoder.prompts`) behind which its queries are read: {lareqa: qa}.
    Those of other sources are read behind that for queries. Empty = all are."""
    positives: Literal["answer", "same_text"] = setting("answer", on_resume="keep")
    """answer: a query's positive is its passage; same_text: the passage itself, told apart by dropout (SimCSE)."""
    hard_negatives: int = setting(1, on_resume="keep", ge=1)
    """Hard negatives of a row, where `loss.negatives` has them: drawn from its group's, and all if it has fewer."""
    code_switch: float = setting(0.0, on_resume="keep", ge=0, le=1)
    """Share of a text's lexicon words that are swapped for translations into other languages of the store; 0 = none."""
    lexicon: str = setting("cldr", on_resume="keep")
    """Where translations come from: cldr (names of places, languages, currencies), or a file or folder of lexicons."""

    @field_validator("sources", mode="before")
    @classmethod
    def _weights_of_sources(cls, given: Any) -> Any:
        by_kind = isinstance(given, Mapping) and any(isinstance(each, Mapping) for each in given.values())
        for kind, weights in given.items() if by_kind else [("", given)]:
            if by_kind and kind not in KINDS:
                raise ValueError(f"has weights by kind, and {kind!r} is no kind: there are {', '.join(KINDS)}")
            if weights is None and not by_kind:
                continue
            if not isinstance(weights, Mapping) or not weights:
                raise ValueError(f"must map names of sources to weights, got {weights!r:.80}")
            for name, weight in weights.items():
                number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
                if not number or not 0 < weight < inf:
                    raise ValueError(
                        f"weights must be above 0, got {weight!r:.80} for {name!r}; a source that is left "
                        "out is not trained on"
                    )
        return given

    @model_validator(mode="after")
    def _every_kind_has_sources(self) -> Batch:
        given = self.sources or {}
        missing = [kind for kind in self.weights if kind not in given]
        if missing and any(isinstance(each, dict) for each in given.values()):
            raise ValueError(
                f"sources has weights by kind, and none for {' and '.join(missing)}, which the mix has; add them"
            )
        return self

    @model_validator(mode="after")
    def _some_weight(self) -> Batch:
        if self.mix is not None and sum(self.mix.values()) <= 0:
            raise ValueError(f"mix must have a positive weight, got {self.mix}")
        if self.positives == "same_text" and "cross_lingual" in self.weights:
            raise ValueError(
                "positives=same_text pairs a text with itself, which has one language: set mix without cross_lingual "
                "(for example mix={monolingual: 1})"
            )
        return self

    @property
    def weights(self) -> dict[Kind, float]:
        """Weight of each kind that is asked for, normalised to sum to 1."""
        mix = self.mix or {"monolingual": self.alpha, "cross_lingual": 1 - self.alpha}
        total = sum(mix.values())
        return {kind: mix[kind] / total for kind in KINDS if mix.get(kind, 0) > 0}

    @property
    def source_weights(self) -> dict[Kind, dict[str, float]] | None:
        """Weight of each source among the batches of each kind that is asked for; None where `sources` is null."""
        if self.sources is None:
            return None
        by_kind = any(isinstance(each, dict) for each in self.sources.values())
        return {kind: self.sources[kind] if by_kind else self.sources for kind in self.weights}  # type: ignore[misc]
