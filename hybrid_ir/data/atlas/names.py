"""What things are called in atlas's languages, as they stand within a sentence.

In: an entity and a language. Out: CLDR's name for it, with the article, case or preposition that the sentence needs.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from babel import Locale

LANGUAGES: tuple[str, ...] = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")


class Entity(NamedTuple):
    """Something that languages have a name for."""

    kind: str  # territory, currency, language, script, city, zone (a CLDR metazone), weekday, or literal
    key: str  # its CLDR identifier


def codes(listed: str) -> frozenset[str]:
    """The codes of a list with spaces between them."""
    return frozenset(listed.split())


@cache
def locale_of(lang: str) -> Locale:
    """CLDR's data of a language."""
    return Locale(lang)


# A Latin letter in one of these is an English name that nobody translated, or an abbreviation left as it was.
_OTHER_SCRIPTS = frozenset({"ar", "el", "hi", "ru", "th", "zh"})
_LATIN = re.compile("[A-Za-z]")


@cache
def _bare_name(entity: Entity, lang: str) -> str | None:
    """CLDR's display name, or None where CLDR has none of its own for this language."""
    kind, key = entity
    locale = locale_of(lang)
    match kind:
        case "literal":
            return key
        case "territory":
            name = locale.territories.get(key)
        case "currency":
            name = locale.currencies.get(key)
        case "language":
            name = locale.languages.get(key)
        case "script":
            name = locale.scripts.get(key)
        case "weekday":
            name = locale.days["stand-alone"]["wide"][int(key)]
        case "zone":
            names = [locale_of(each).meta_zones.get(key, {}).get("long", {}) for each in LANGUAGES]
            # Where some language has no name for the zone all year round, all of them use the standard time's.
            form = "generic" if all("generic" in each for each in names) else "standard"
            name = names[LANGUAGES.index(lang)].get(form)
        case "city":
            # CLDR leaves out a city whose name is the identifier's, which only Latin scripts can share.
            name = locale.time_zones.get(key, {}).get("city") or key.rpartition("/")[2].replace("_", " ")
        case _:
            raise AssertionError(kind)
    if not name or name == key or (lang in _OTHER_SCRIPTS and _LATIN.search(name)):
        return None
    return name


@cache
def name_in(entity: Entity, lang: str) -> str | None:
    """The name as it stands within a sentence: with the noun or the article that the language wants beside it."""
    name = _bare_name(entity, lang)
    kind = entity.kind
    if name is None or kind in {"literal", "weekday"}:
        return name
    match lang, kind:
        case "ar", "language":
            if name.startswith(("لغة", "اللهجة", "اللغة")):
                return name
            return f"اللغة {name}" if _is_arabic_adjective(name) else f"لغة {name}"
        case "ar", "script":
            return f"الكتابة {name}" if _is_arabic_adjective(name) else f"كتابة {name}"
        case "en", "territory":
            return f"the {name}" if _ENGLISH_ARTICLE.search(name) else name
        case "ru", "language":
            if "(" in name:
                return f"язык «{name}»"
            return f"{name} язык" if name.endswith(("ий", "ый", "ой")) else f"язык {name}"
        case "ru", "territory" | "city" | "zone":
            for short, full in (("о-ва", "острова"), ("о-в", "остров"), ("Св.", "Святой")):
                name = re.sub(rf"(?<!\w){re.escape(short)}(?!\w)", full, name)
            return name[0].upper() + name[1:]
        case "th", "language":
            return name if name.startswith("ภาษา") else f"ภาษา{name}"
        case "th", "script":
            return name if name.startswith(("อักษร", "ตัว")) else f"อักษร{name}"
        case "vi", "language" | "script" | "currency" | "zone":
            return name[0].lower() + name[1:]
    return name


def holds(text: str, part: str) -> bool:
    """Whether a text names something, in whatever letter case."""
    return part.casefold() in text.casefold()


def _is_arabic_adjective(name: str) -> bool:
    # "الفرنسية" agrees with the feminine nouns for language and script; "الكادو" does not.
    first = name.split()[0]
    return first.startswith("ال") and first.endswith("ية")


_ENGLISH_ARTICLE = re.compile(
    r"^(United|Bahamas|Gambia|Netherlands|Philippines|Maldives|Seychelles|Comoros|Isle of Man|British Indian"
    r"|Caribbean Netherlands|U\.S\.)|(Islands|Republic|Territories)$"
)

_SPANISH_ARTICLE = {
    "la": r"Isla |República|Ciudad|RAE|Polinesia|Guayana|Antártida|India$",
    "las": "Islas|Bahamas|Bermudas|Comoras|Maldivas|Seychelles",
    "el": "Reino Unido|Territorio |Caribe|Líbano|Sáhara|Congo",
    "los": "Países Bajos|Emiratos|Territorios",
}

_GERMAN_PREPOSITIONS = {
    "im": codes("IQ IR LB SD SN SS TD YE"),
    "in der": codes("AQ CH EH HK MD MN MO SK TR UA VA"),
    "auf der": codes("CX IM NF"),
    "auf den": codes("AX BS CC CK FK KM KY MH MV PH PN SB SC TC"),
    "auf": codes(
        "AI AS AW BB BL BM CU CW DM GD GG GL GP GU JE JM KI MF MG MQ MS MT MU NR NU PM PR RE SH SJ SX TK WF YT"
    ),
}
# Where the dative is not the name.
_GERMAN_DATIVES = {
    "AE": "in den Vereinigten Arabischen Emiraten",
    "BQ": "in den Karibischen Niederlanden",
    "CF": "in der Zentralafrikanischen Republik",
    "DO": "in der Dominikanischen Republik",
    "FO": "auf den Färöern",
    "GB": "im Vereinigten Königreich",
    "GS": "auf Südgeorgien und den Südlichen Sandwichinseln",
    "IO": "im Britischen Territorium im Indischen Ozean",
    "MP": "auf den Nördlichen Marianen",
    "NL": "in den Niederlanden",
    "PS": "in den Palästinensischen Autonomiegebieten",
    "TF": "in den Französischen Süd- und Antarktisgebieten",
    "UM": "auf den Amerikanischen Überseeinseln",
    "US": "in den Vereinigten Staaten",
    "VC": "in St. Vincent und den Grenadinen",
    "VG": "auf den Britischen Jungferninseln",
    "VI": "auf den Amerikanischen Jungferninseln",
}


_LOCATIVES = {
    "ar": "في {}",
    "el": "στη χώρα ή περιοχή «{}»",
    "en": "in {}",
    "hi": "{} में",
    "ru": "в стране или на территории «{}»",
    "th": "ใน{}",
    "tr": "{} adlı ülke veya bölgede",
    "vi": "ở {}",
    "zh": "在{}",
}


@cache
def locative(territory: str, lang: str) -> str:
    """ "In France": with the right preposition and case, or around a name that stays in the nominative."""
    name = name_in(Entity("territory", territory), lang)
    if lang == "de":
        preposition = next((word for word, places in _GERMAN_PREPOSITIONS.items() if territory in places), "in")
        return _GERMAN_DATIVES.get(territory, f"{preposition} {name}")
    if lang == "es":
        article = next((f"{word} " for word, names in _SPANISH_ARTICLE.items() if re.match(names, str(name))), "")
        return f"en {article}{name}"
    return _LOCATIVES[lang].format(name)
