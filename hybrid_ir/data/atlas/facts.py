"""Atlas: a data set that is parallel by construction, for work without a download.

True facts of CLDR (through `babel`) about territories, currencies, languages and places, each rendered as a question
and a passage in eleven languages by the templates in `atlas_templates.toml`. A fact is kept only if all eleven
languages have a proper name for everything in it. One fact is one group and one document.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import NamedTuple
from zlib import crc32

from babel import localedata
from babel.core import get_global

from hybrid_ir.data.atlas.names import LANGUAGES, Entity, codes, locale_of, locative, name_in
from hybrid_ir.types import Group, Passage


def atlas_groups() -> Iterator[Group]:
    """Every group, relation by relation, in an order that depends on the installed babel alone. Takes a second."""
    templates = tomllib.loads(resources.files("hybrid_ir.data.atlas").joinpath("templates.toml").read_text("utf-8"))
    rendered = [(fact, _render(fact, templates[fact.relation])) for fact in _facts()]
    rendered = [(fact, texts) for fact, texts in rendered if texts is not None]
    # Some names are shared (two languages called "Tonga"): their questions would have two answers.
    askers = Counter((fact.relation, lang, name_in(fact.subject, lang)) for fact, _ in rendered for lang in LANGUAGES)
    for fact, (queries, passages) in rendered:
        if all(askers[fact.relation, lang, name_in(fact.subject, lang)] == 1 for lang in LANGUAGES):
            group_id = fact.group_id
            doc_id = f"atlas/{group_id}"
            yield Group(group_id, group_id, queries, {lang: Passage(doc_id, passages[lang]) for lang in LANGUAGES})


def subject_of(group_id: str) -> str:
    """What a fact is about: "FR" for "currency/FR". Passages with other relations about it are good distractors."""
    return group_id.partition("/")[2]


class _Fact(NamedTuple):
    relation: str
    subject: Entity
    answer: Entity

    @property
    def group_id(self) -> str:
        return f"{self.relation}/{self.subject.key.replace('/', '_')}"


# ---- the facts


# CLDR knows these, but they have no permanent population whose language or money one could ask for.
_UNINHABITED = frozenset({"AQ", "GS", "IO", "TF", "UM"})
# Whose they are, or what holds there, is disputed.
_DISPUTED = frozenset({"EH", "PS"})
_DISPUTED_CITIES = frozenset({"Africa/El_Aaiun", "Asia/Famagusta", "Asia/Gaza", "Asia/Hebron", "Asia/Jerusalem"}) | {
    "Europe/Simferopol"
}
# CLDR still has the lev; Bulgaria has decided on the euro from 2026.
_STALE_CURRENCY = frozenset({"BG"})
# CLDR's date is that of a later code or series, not the year that a reader would expect.
_DISPUTED_YEARS = frozenset({"CN", "MY", "RU"})
# Earlier dates in CLDR are rough: they mix coins, notes and colonial tender.
_EARLIEST_YEAR = 1940
# Where the law has changed since (French in Mali), CLDR lacks a co-official language (Kurdish in Iraq), or there is
# no such law (Taiwan).
_DISPUTED_OFFICIAL = codes("BF CK CX ET FO IQ JE ME MK ML NE NF PN TW ZA")
# Where CLDR counts who was schooled in a language rather than who speaks it (English in Eswatini), or is in doubt.
_DISPUTED_SPEAKERS = codes("AF AW BA BW ET FJ FM GM GW KI KM KZ ME MH NA NR SB SZ UG ZA")
_DISPUTED_SECOND = codes("IQ RS TR YE")
# Not living languages, or languages with as many speakers elsewhere: the two tables agree, and yet say too much.
_DISPUTED_HOMES = codes("ab az cop crh dyu fan hy kj ku la lun man mn nqo os prg ps sa sma swb syr tmh yue zdj")
# A wrong name in one of the eleven languages (Chuukese is "Chukchi" in Russian, Middle Dutch "Portuguese" in Hindi...).
_MISNAMED = frozenset({"bho", "bra", "chk", "dum"})
_NO_LANGUAGE = frozenset({"mis", "mul", "und", "zxx"})
_MISNAMED_SCRIPTS = frozenset({"Java", "Tfng"})
# Not the name of a script that one can put after "written in the ... script".
_ODD_SCRIPTS = frozenset(
    {"Cans", "Egyp", "Hans", "Hant", "Latg", "Xsux", "Zmth", "Zsye", "Zsym", "Zxxx", "Zyyy", "Zzzz"}
)
# Written in more than one script, side by side or by turns, though CLDR has locales for one only.
_MANY_SCRIPTS = codes("bej crh kaw ku pi sd sr swb tg tk zdj zen")
# CLDR counts some varieties beside the language they belong to; counting both would rank a language below itself.
_PART_OF = {
    **dict.fromkeys(("acm", "aeb", "afb", "ajp", "apc", "apd", "arq", "ars", "ary", "arz", "shu"), "ar"),
    **dict.fromkeys(("gan", "hak", "hsn", "nan", "wuu", "yue"), "zh"),
    **dict.fromkeys(("bar", "gsw", "nds", "swg", "vmf", "wae"), "de"),
    **dict.fromkeys(("nb", "nn"), "no"),
    **dict.fromkeys(("lah", "pnb"), "pa"),
    "hif": "hi",
    "qug": "qu",
    "zdj": "swb",
    "wni": "swb",
}


def _facts() -> Iterator[_Fact]:
    territories = sorted(t for t in get_global("territory_zones") if re.fullmatch("[A-Z]{2}", t) and t != "ZZ")
    inhabited = [t for t in territories if t not in _UNINHABITED | _DISPUTED]
    yield from _currency_facts(inhabited)
    yield from _language_facts(inhabited)
    yield from _time_zone_facts(inhabited)
    yield from _first_day_facts(inhabited)
    for territory in territories:
        if territory != "AQ":
            yield _Fact("country_code", Entity("territory", territory), Entity("literal", territory))
    yield from _script_facts()
    yield from _home_facts(inhabited)
    yield from _city_facts()


def _currency_facts(territories: list[str]) -> Iterator[_Fact]:
    current = {}
    for territory in territories:
        tenders = [
            (code, start)
            for code, start, end, is_tender in get_global("territory_currencies").get(territory, ())
            if is_tender and end is None
        ]
        if len(tenders) == 1 and territory not in _STALE_CURRENCY:
            current[territory] = tenders[0]
    for territory, (code, _) in current.items():
        yield _Fact("currency", Entity("territory", territory), Entity("currency", code))
    for territory, (_, start) in current.items():
        if start and start[0] >= _EARLIEST_YEAR and territory not in _DISPUTED_YEARS:
            yield _Fact("currency_year", Entity("territory", territory), Entity("literal", str(start[0])))
    for code in sorted({code for code, _ in current.values()}):
        yield _Fact("currency_code", Entity("currency", code), Entity("literal", code))


def _speakers(territory: str) -> dict[str, float]:
    """Share of the population, in percent, by language; the largest first. Scripts and varieties are merged."""
    share: dict[str, float] = {}
    for code, info in get_global("territory_languages").get(territory, {}).items():
        language = str(code).partition("_")[0]
        language = _PART_OF.get(language, language)
        share[language] = max(share.get(language, 0.0), info["population_percent"])
    return dict(sorted(share.items(), key=lambda item: (-item[1], item[0])))


def _language_facts(territories: list[str]) -> Iterator[_Fact]:
    # CLDR's shares are estimates: a rank is a fact only where it has a margin.
    for territory in territories:
        ranked = list(_speakers(territory).items()) + [("", 0.0)] * 3
        (first, most), (second, fewer), (_, fewest) = ranked[:3]
        if territory in _DISPUTED_SPEAKERS or most < 1.1 * fewer:
            continue
        if first:
            yield _Fact("most_spoken_language", Entity("territory", territory), Entity("language", first))
        if fewer >= 5.0 and fewer > 1.2 * fewest and territory not in _DISPUTED_SECOND:
            yield _Fact("second_language", Entity("territory", territory), Entity("language", second))
    for territory in territories:
        status = {}
        for code, info in get_global("territory_languages").get(territory, {}).items():
            language = str(code).partition("_")[0]
            if info["official_status"] in {"official", "de_facto_official"}:
                status[_PART_OF.get(language, language)] = info["official_status"]
        if len(status) == 1 and set(status.values()) == {"official"} and territory not in _DISPUTED_OFFICIAL:
            yield _Fact("official_language", Entity("territory", territory), Entity("language", *status))


# CLDR calls their time Greenwich Mean Time all year round, though their clocks leave it in summer.
_SUMMER_TIME_UNNAMED = codes("GB GG IE IM JE")
_SUMMER_TIME_UNNAMED_CITIES = frozenset({"Europe/London", "Europe/Dublin", "Antarctica/Troll"})


def _zone_region(zone: str, table: str) -> str | None:
    """CLDR keeps old zone identifiers ("America/Buenos_Aires") and babel's tables the new ones."""
    regions = get_global(table)  # pyright: ignore[reportArgumentType]
    return regions.get(zone) or regions.get(get_global("zone_aliases").get(zone, ""))


def _cities() -> list[str]:
    return sorted(
        zone for zone in map(str, locale_of("ru").time_zones) if zone.count("/") >= 1 and not zone.startswith("Etc/")
    )


def _time_zone_facts(territories: list[str]) -> Iterator[_Fact]:
    zones_of = defaultdict(set)
    for zone in _cities():
        zones_of[_zone_region(zone, "zone_territories")].add(_zone_region(zone, "meta_zones"))
    for territory in territories:
        metazones = zones_of[territory]
        if len(metazones) == 1 and None not in metazones and territory not in _SUMMER_TIME_UNNAMED:
            yield _Fact("time_zone", Entity("territory", territory), Entity("zone", *metazones))


def _first_day_facts(territories: list[str]) -> Iterator[_Fact]:
    # Only what CLDR says of the territory itself: the world's default (Monday) would be a guess elsewhere.
    first_days = {}
    for name in sorted(localedata.locale_identifiers()):
        territory = name.rpartition("_")[2]
        if territory in first_days or len(territory) != 2 or not territory.isupper():
            continue
        week = localedata.load(name, merge_inherited=False).get("week_data", {})
        if "first_day" in week:
            first_days[territory] = week["first_day"]
    for territory in territories:
        if territory in first_days:
            day = Entity("weekday", str(first_days[territory]))
            yield _Fact("first_day_of_week", Entity("territory", territory), day)


def _languages() -> list[str]:
    return sorted(
        code for code in map(str, locale_of("en").languages) if code.isalpha() and code not in _MISNAMED | _NO_LANGUAGE
    )


def _script_facts() -> Iterator[_Fact]:
    several = defaultdict(set)
    likely = {code: subtags.split("_") for code, subtags in get_global("likely_subtags").items()}
    for name in localedata.locale_identifiers():
        language, *rest = name.split("_")
        scripts = {part for part in rest if len(part) == 4 and part.isalpha()}
        if language not in {"hi", "en"}:  # their other scripts (Hinglish, Shavian) are no rivals
            several[language].update(scripts)
    for language in _languages():
        script = likely[language][1] if language in likely else None
        if script is None or script in _ODD_SCRIPTS | _MISNAMED_SCRIPTS or language in _MANY_SCRIPTS:
            continue
        if not several[language] - {script}:
            yield _Fact("language_script", Entity("language", language), Entity("script", script))


def _home_facts(territories: list[str]) -> Iterator[_Fact]:
    # Two of CLDR's tables must agree: the likeliest territory of a language, and where its share is largest.
    share = defaultdict(dict)
    for territory in territories:
        for code, info in get_global("territory_languages").get(territory, {}).items():
            language = str(code).partition("_")[0]
            percent = info["population_percent"]
            share[language][territory] = max(share[language].get(territory, 0.0), percent)
    for language in _languages():
        likely = get_global("likely_subtags").get(language, "").rpartition("_")[2]
        shares = share.get(language, {})
        if language in _DISPUTED_HOMES:
            continue
        if shares.get(likely, 0.0) > 0.0 and shares[likely] == max(shares.values()):
            yield _Fact("language_home", Entity("language", language), Entity("territory", likely))


# Plural names (they break the agreement of "lies"), and towns that share their name with a better known place.
_AWKWARD_CITIES = frozenset(
    {"America/Cordoba", "America/Argentina/La_Rioja", "America/Argentina/San_Juan", "America/Argentina/San_Luis"}
    | {"America/Merida", "Atlantic/Azores", "Atlantic/Canary", "Atlantic/Faeroe", "Atlantic/Faroe"}
    | {
        "Pacific/Galapagos",
        "Pacific/Gambier",
        "Pacific/Marquesas",
        "Pacific/Midway",
        "Pacific/Johnston",
        "Pacific/Wake",
    }
)
_SMALL_TOWNS = re.compile(r"America/(Indiana|Kentucky|North_Dakota)/")


def _city_facts() -> Iterator[_Fact]:
    cities = []
    for zone in _cities():
        territory = _zone_region(zone, "zone_territories")
        if not territory or zone in _AWKWARD_CITIES | _DISPUTED_CITIES or _SMALL_TOWNS.match(zone):
            continue
        names = [
            (name_in(Entity("city", zone), lang), name_in(Entity("territory", territory), lang)) for lang in LANGUAGES
        ]
        # A city state's question would be the state's; and "Mexico City" gives its answer away.
        if all(city and place and not _holds(city, place) and not _holds(place, city) for city, place in names):
            cities.append((zone, territory))
    for zone, territory in cities:
        yield _Fact("city_territory", Entity("city", zone), Entity("territory", territory))
    for zone, _ in cities:
        metazone = _zone_region(zone, "meta_zones")
        if metazone and zone not in _SUMMER_TIME_UNNAMED_CITIES:
            yield _Fact("city_time_zone", Entity("city", zone), Entity("zone", metazone))


# ---- the texts


def _render(fact: _Fact, templates: Mapping) -> tuple[dict[str, str], dict[str, str]] | None:
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
        if fact.answer.kind != "literal" and _holds(queries[lang], answer):
            return None
    return queries, passages


def _holds(text: str, part: str) -> bool:
    return part.casefold() in text.casefold()
