"""Atlas: the embedded data set, parallel by construction, for work without a download.

In: the facts in `hybrid_ir/data/atlas`, and its `templates.toml` of a question and a passage in eleven languages.
Out: a stream of groups. A fact is kept only if all eleven languages have a proper name for everything in it.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from zlib import crc32

from hybrid_ir.data.atlas.facts import Fact, atlas_facts
from hybrid_ir.data.atlas.names import LANGUAGES, holds, locative, name_in
from hybrid_ir.types import Group, InputError, Passage


def read_atlas(languages: Sequence[str] | None = None) -> Iterator[Group]:
    """One group and document a fact, in `languages` (None = all). Takes a second.

    They come relation by relation, in an order that depends on the installed babel alone.
    """
    for language in languages or ():
        if language not in LANGUAGES:
            raise InputError(f"atlas has no {language!r}; it has {', '.join(LANGUAGES)}")
    keep = tuple(languages or LANGUAGES)
    templates = tomllib.loads(resources.files("hybrid_ir.data.atlas").joinpath("templates.toml").read_text("utf-8"))
    rendered = [(fact, texts) for fact in atlas_facts() if (texts := _render(fact, templates[fact.relation]))]
    # Some names are shared (two languages called "Tonga"): their questions would have two answers.
    askers = Counter((fact.relation, lang, name_in(fact.subject, lang)) for fact, _ in rendered for lang in LANGUAGES)
    for fact, (queries, passages) in rendered:
        if all(askers[fact.relation, lang, name_in(fact.subject, lang)] == 1 for lang in LANGUAGES):
            texts = {lang: (Passage(f"atlas/{fact.group_id}", passages[lang]),) for lang in keep}
            yield Group(fact.group_id, fact.group_id, {lang: queries[lang] for lang in keep}, texts)


def subject_of(group_id: str) -> str:
    """What a fact is about: "FR" for "currency/FR". Passages with other relations about it are good distractors."""
    return group_id.partition("/")[2]


def _render(fact: Fact, templates: Mapping) -> tuple[dict[str, str], dict[str, str]] | None:
    """Queries and passage texts by language, or None if a language has no name or its question tells the answer."""
    # The same variants in all languages; a hash, so that a new fact does not change the wording of the others.
    variant = crc32(fact.group_id.encode())
    queries, passages = {}, {}
    for lang in LANGUAGES:
        subject, answer = name_in(fact.subject, lang), name_in(fact.answer, lang)
        if subject is None or answer is None:
            return None
        fields = {"s": subject, "a": answer}
        if fact.subject.kind == "territory":
            fields["in_s"] = locative(fact.subject.key, lang)
        if fact.answer.kind == "territory":
            fields["in_a"] = locative(fact.answer.key, lang)
        forms = templates[lang]
        queries[lang] = forms["q"][variant % 2].format_map(fields)
        passages[lang] = forms["p"][variant // 2 % 2].format_map(fields)
        if fact.answer.kind != "literal" and holds(queries[lang], answer):
            return None
    return queries, passages
