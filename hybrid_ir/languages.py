"""What we know about a language.

In: a BCP 47 or ISO 639 tag. Out: its canonical code, English name, family and script.
Codes, names and scripts are CLDR's, through the `babel` package. Families are Glottolog 5's (glottolog.org), at the
level that this field reports: branches of Indo-European and of the Niger-Congo languages, whole families elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from babel.core import Locale, get_global

from hybrid_ir.types import InputError

OTHER_FAMILY = "other"

_LANGUAGES_OF_FAMILY = {
    "Austroasiatic": "km vi",
    "Austronesian": "ceb fil id jv mg mi ms su",
    "Baltic": "lt lv",
    "Bantu": "lg ln rn rw sn st sw tn ts xh zu",
    "Basque (isolate)": "eu",
    "Celtic": "br cy ga gd",
    "Dravidian": "kn ml ta te",
    "Germanic": "af da de en fo is lb nb nl nn no sv yi",
    "Hellenic": "el",
    "Indo-Aryan": "as bn gu hi mr ne pa sd si ur",
    "Iranian": "ckb fa ku ps tg",
    "Japonic": "ja",
    "Kartvelian": "ka",
    "Koreanic": "ko",
    "Kra-Dai": "lo th",
    "Mongolic": "mn",
    "Quechuan": "qu",
    # Glottolog files Haitian under French (Circum-Caribbean French), not under a group of creoles.
    "Romance": "ca es fr gl ht it oc pt ro",
    "Semitic": "am ar he mt ti",
    "Sino-Tibetan": "bo my yue zh",
    "Slavic": "be bg bs cs hr mk pl ru sk sl sr uk",
    "Turkic": "az ba kk ky tk tr tt ug uz",
    "Uralic": "et fi hu",
    "Yoruboid": "yo",
}

FAMILY: Mapping[str, str] = MappingProxyType(
    {code: family for family, codes in _LANGUAGES_OF_FAMILY.items() for code in codes.split()}
)
"""Family of a language, by code."""

# A primary subtag, an optional "extended language" (zh-yue is yue), then anything: script, region, variants.
_TAG = re.compile(r"([a-z]{2,3})(?:[-_]([a-z]{3}))?(?:[-_][a-z0-9]{1,8})*", re.IGNORECASE)
# Of languages of which CLDR also names parts, what ISO 639-3 calls the whole: ara, of which arb is a part.
_WHOLE = "ara aze est fas guj hrv kur lav mlg mon msa nep pus que ron srp swa uzb yid zho"
# The second names of ISO 639-2/B, which ISO 639-3 does not have.
_SECOND = "alb arm baq bur chi cze dut fre geo ger gre ice mac mao may per rum slo tib wel"
_NOT_LANGUAGES = frozenset({"mul", "root", "und", "zxx"})


@lru_cache(maxsize=4096)
def language_code(tag: str) -> str:
    """The one code this project uses for the language of a BCP 47 or ISO 639 tag: arb, ara and ar-EG are all `ar`.

    Script and region are dropped. Raises InputError for what is not a tag, or a language CLDR has no English name for.
    """
    match = _TAG.fullmatch(tag.strip())
    code = ""
    if match:
        primary = (match[2] or match[1]).lower()
        code = get_global("language_aliases").get(primary, primary).partition("_")[0]
    if code in _NOT_LANGUAGES or code not in Locale("en").languages:
        raise InputError(f"unknown language {tag[:40]!r}; use an ISO 639 code such as en, zh or yue")
    return code


def is_code(text: str) -> bool:
    """Whether it is a language's code as it stands: `de`, and not `deu`, `DE` or `de-AT`."""
    try:
        return language_code(text) == text
    except InputError:
        return False


def written_form(tag: str) -> str:
    """The code with the script and region that a tag names: en for eng, zh-TW for cmn-TW, sr-Latn for sh.

    Raises InputError as `language_code` does.
    """
    script, region = _script_and_region(tag)
    return "-".join(filter(None, (language_code(tag), script, region)))


def form_order(tag: str) -> tuple[bool, bool, bool, str]:
    """A key that sorts the forms of a language, the usual one first: its usual script, then no region, then its own.

    zh, zh-CN, zh-Hant; pt, pt-BR, pt-PT; sr, sr-Latn.
    """
    code, (script, region) = language_code(tag), _script_and_region(tag)
    subtags = get_global("likely_subtags")
    _, usual_script, usual_region = [*subtags.get(code, "").split("_"), "", ""][:3]
    # What is written there: of Chinese in Hong Kong CLDR says it under the region alone.
    there = [subtags.get(key, "").split("_") for key in (f"{code}_{region}", f"und_{region}")]
    script = script or next((parts[1] for parts in there if parts[0] == code and len(parts) > 1), usual_script)
    plain = written_form(tag) == code
    return script != usual_script, not plain, not plain and region != usual_region, written_form(tag)


def _script_and_region(tag: str) -> tuple[str, str]:
    """ISO 15924 and ISO 3166 codes that are in a tag, or that its old code stands for (sh is sr_Latn); "" for none."""
    primary, *rest = re.split("[-_]", tag.strip().lower())
    parts = [*rest, *get_global("language_aliases").get(primary, "").lower().split("_")[1:]]
    script = next((part.title() for part in parts if len(part) == 4 and part.isalpha()), "")
    region = next((p.upper() for p in parts if (len(p) == 2 and p.isalpha()) or (len(p) == 3 and p.isdigit())), "")
    return script, region


def language_and_script(tag: str) -> str:
    """The language in ISO 639-3 and the script in ISO 15924, as mteb writes both: deu-Latn for de, zho-Hant for zh-TW.

    `und` has no language: "". Raises InputError as `language_code` does.
    """
    if tag == "und":
        return ""
    code, (script, region) = language_code(tag), _script_and_region(tag)
    primary = re.split("[-_]", tag.lower())[0]
    name = primary if len(primary) == 3 and primary not in _SECOND.split() else _three_letters(code)
    there = get_global("likely_subtags").get(f"{code}_{region}", "").split("_")
    return f"{name}-{script or (there[1] if len(there) > 1 else language_script(code))}"


def _three_letters(code: str) -> str:
    """The code in ISO 639-3: CLDR's older name of it, and of several the one of the whole language (zho, not cmn)."""
    aliases = get_global("language_aliases").items()
    names = [name for name, short in aliases if short == code and len(name) == 3 and name not in _SECOND.split()]
    return next((name for name in names if len(names) == 1 or name in _WHOLE.split()), code)


def language_codes(tags: Iterable[str]) -> list[str]:
    """The codes of the tags, each once, sorted. Raises InputError if there are none."""
    codes = sorted({language_code(tag) for tag in tags})
    if not codes:
        raise InputError("languages is empty; list the languages to read, for example [en, sw]")
    return codes


def upstream_names(data_set: str, names: Mapping[str, str], languages: Iterable[str]) -> dict[str, str]:
    """Code -> what a data set calls the language, of those that are wanted. Raises InputError for one it lacks."""
    codes = language_codes(languages)
    if missing := [code for code in codes if code not in names]:
        raise InputError(f"{data_set} has no {', '.join(missing)}; its languages are: {' '.join(sorted(names))}")
    return {code: names[code] for code in codes}


def language_name(code: str) -> str:
    """English name: `Greek` for `el`."""
    return Locale("en").languages[language_code(code)]


def language_family(code: str) -> str:
    """Family of the language, `OTHER_FAMILY` where `FAMILY` has no entry."""
    return FAMILY.get(language_code(code), OTHER_FAMILY)


def language_script(code: str) -> str:
    """ISO 15924 code of the script that the language is mostly written in: `Grek` for `el`; `Zzzz` if CLDR has none."""
    likely = get_global("likely_subtags").get(language_code(code), "")
    return next((part for part in likely.split("_")[1:] if len(part) == 4), "Zzzz")
