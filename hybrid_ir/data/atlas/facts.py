"""Which facts atlas asks about: true statements of CLDR about territories, currencies, languages, scripts and places.

In: the tables of CLDR, through the installed `babel`. Out: facts, of which some still lack a name in some language.
What CLDR says, and what is disputed, stale or misnamed in it, is listed here by hand.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from babel import localedata
from babel.core import get_global

from hybrid_ir.data.atlas.names import LANGUAGES, Entity, codes, holds, locale_of, name_in


class Fact(NamedTuple):
    relation: str
    subject: Entity
    answer: Entity

    @property
    def group_id(self) -> str:
        return f"{self.relation}/{self.subject.key.replace('/', '_')}"


# CLDR knows these, but they have no permanent population whose language or money one could ask for.
_UNINHABITED = frozenset({"AQ", "GS", "IO", "TF", "UM"})
# Whose they are, or what holds there, is disputed.
_DISPUTED = frozenset({"EH", "PS"})
_DISPUTED_CITIES = codes("Africa/El_Aaiun Asia/Famagusta Asia/Gaza Asia/Hebron Asia/Jerusalem Europe/Simferopol")
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
_ODD_SCRIPTS = codes("Cans Egyp Hans Hant Latg Xsux Zmth Zsye Zsym Zxxx Zyyy Zzzz")
# Written in more than one script, side by side or by turns, though CLDR has locales for one only.
_MANY_SCRIPTS = codes("bej crh kaw ku pi sd sr swb tg tk zdj zen")
# CLDR counts some varieties beside the language they belong to; counting both would rank a language below itself.
_PART_OF = {
    **dict.fromkeys(codes("acm aeb afb ajp apc apd arq ars ary arz shu"), "ar"),
    **dict.fromkeys(codes("gan hak hsn nan wuu yue"), "zh"),
    **dict.fromkeys(codes("bar gsw nds swg vmf wae"), "de"),
    **dict.fromkeys(codes("nb nn"), "no"),
    **dict.fromkeys(codes("lah pnb"), "pa"),
    **dict.fromkeys(codes("zdj wni"), "swb"),
    "hif": "hi",
    "qug": "qu",
}


def atlas_facts() -> Iterator[Fact]:
    territories = sorted(t for t in get_global("territory_zones") if re.fullmatch("[A-Z]{2}", t) and t != "ZZ")
    inhabited = [t for t in territories if t not in _UNINHABITED | _DISPUTED]
    yield from _currency_facts(inhabited)
    yield from _language_facts(inhabited)
    yield from _time_zone_facts(inhabited)
    yield from _first_day_facts(inhabited)
    for territory in territories:
        if territory != "AQ":
            yield Fact("country_code", Entity("territory", territory), Entity("literal", territory))
    yield from _script_facts()
    yield from _home_facts(inhabited)
    yield from _city_facts()


def _currency_facts(territories: list[str]) -> Iterator[Fact]:
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
        yield Fact("currency", Entity("territory", territory), Entity("currency", code))
    for territory, (_, start) in current.items():
        if start and start[0] >= _EARLIEST_YEAR and territory not in _DISPUTED_YEARS:
            yield Fact("currency_year", Entity("territory", territory), Entity("literal", str(start[0])))
    for code in sorted({code for code, _ in current.values()}):
        yield Fact("currency_code", Entity("currency", code), Entity("literal", code))


def _spoken(territory: str) -> list[tuple[str, dict]]:
    """(language, its share of the population and its status) of each language of the territory, one for each script."""
    listed = get_global("territory_languages").get(territory, {})
    return [(str(code).partition("_")[0], info) for code, info in listed.items()]


def _speakers(territory: str) -> dict[str, float]:
    """Share of the population, in percent, by language; the largest first. Scripts and varieties are merged."""
    share: dict[str, float] = {}
    for language, info in _spoken(territory):
        language = _PART_OF.get(language, language)
        share[language] = max(share.get(language, 0.0), info["population_percent"])
    return dict(sorted(share.items(), key=lambda item: (-item[1], item[0])))


def _language_facts(territories: list[str]) -> Iterator[Fact]:
    # CLDR's shares are estimates: a rank is a fact only where it has a margin.
    for territory in territories:
        ranked = list(_speakers(territory).items()) + [("", 0.0)] * 3
        (first, most), (second, fewer), (_, fewest) = ranked[:3]
        if territory in _DISPUTED_SPEAKERS or most < 1.1 * fewer:
            continue
        if first:
            yield Fact("most_spoken_language", Entity("territory", territory), Entity("language", first))
        if fewer >= 5.0 and fewer > 1.2 * fewest and territory not in _DISPUTED_SECOND:
            yield Fact("second_language", Entity("territory", territory), Entity("language", second))
    for territory in territories:
        status = {
            _PART_OF.get(language, language): info["official_status"]
            for language, info in _spoken(territory)
            if info["official_status"] in {"official", "de_facto_official"}
        }
        if len(status) == 1 and set(status.values()) == {"official"} and territory not in _DISPUTED_OFFICIAL:
            yield Fact("official_language", Entity("territory", territory), Entity("language", *status))


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


def _time_zone_facts(territories: list[str]) -> Iterator[Fact]:
    zones_of = defaultdict(set)
    for zone in _cities():
        zones_of[_zone_region(zone, "zone_territories")].add(_zone_region(zone, "meta_zones"))
    for territory in territories:
        metazones = zones_of[territory]
        if len(metazones) == 1 and None not in metazones and territory not in _SUMMER_TIME_UNNAMED:
            yield Fact("time_zone", Entity("territory", territory), Entity("zone", *metazones))


def _first_day_facts(territories: list[str]) -> Iterator[Fact]:
    # Only what CLDR says of the territory itself: the world's default (Monday) would be a guess elsewhere.
    first_days = {}
    for name in sorted(localedata.locale_identifiers()):
        territory = name.rpartition("_")[2]
        if territory in first_days or len(territory) != 2 or not territory.isupper():
            continue
        week = localedata.load(name, merge_inherited=False).get("week_data", {})
        if "first_day" in week:
            first_days[territory] = str(week["first_day"])
    for territory in territories:
        if territory in first_days:
            yield Fact("first_day_of_week", Entity("territory", territory), Entity("weekday", first_days[territory]))


def _languages() -> list[str]:
    return sorted(
        code for code in map(str, locale_of("en").languages) if code.isalpha() and code not in _MISNAMED | _NO_LANGUAGE
    )


def _script_facts() -> Iterator[Fact]:
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
            yield Fact("language_script", Entity("language", language), Entity("script", script))


def _home_facts(territories: list[str]) -> Iterator[Fact]:
    # Two of CLDR's tables must agree: the likeliest territory of a language, and where its share is largest.
    share = defaultdict(dict)
    for territory in territories:
        for language, info in _spoken(territory):
            share[language][territory] = max(share[language].get(territory, 0.0), info["population_percent"])
    for language in _languages():
        likely = get_global("likely_subtags").get(language, "").rpartition("_")[2]
        shares = share.get(language, {})
        if language in _DISPUTED_HOMES:
            continue
        if shares.get(likely, 0.0) > 0.0 and shares[likely] == max(shares.values()):
            yield Fact("language_home", Entity("language", language), Entity("territory", likely))


# Plural names (they break the agreement of "lies"), and towns that share their name with a better known place.
_AWKWARD_CITIES = codes(
    "America/Cordoba America/Argentina/La_Rioja America/Argentina/San_Juan America/Argentina/San_Luis America/Merida "
    "Atlantic/Azores Atlantic/Canary Atlantic/Faeroe Atlantic/Faroe Pacific/Galapagos Pacific/Gambier "
    "Pacific/Marquesas Pacific/Midway Pacific/Johnston Pacific/Wake"
)
_SMALL_TOWNS = re.compile(r"America/(Indiana|Kentucky|North_Dakota)/")


def _city_facts() -> Iterator[Fact]:
    cities = []
    for zone in _cities():
        territory = _zone_region(zone, "zone_territories")
        if not territory or zone in _AWKWARD_CITIES | _DISPUTED_CITIES or _SMALL_TOWNS.match(zone):
            continue
        both = Entity("city", zone), Entity("territory", territory)
        names = [tuple(name_in(entity, lang) for entity in both) for lang in LANGUAGES]
        # A city state's question would be the state's; and "Mexico City" gives its answer away.
        if all(city and place and not holds(city, place) and not holds(place, city) for city, place in names):
            cities.append((zone, territory))
    for zone, territory in cities:
        yield Fact("city_territory", Entity("city", zone), Entity("territory", territory))
    for zone, _ in cities:
        metazone = _zone_region(zone, "meta_zones")
        if metazone and zone not in _SUMMER_TIME_UNNAMED_CITIES:
            yield Fact("city_time_zone", Entity("city", zone), Entity("zone", metazone))
