"""Perturbed queries, to see how far a retriever leans on clean text: with typos, without diacritics, transliterated.

In: texts and their languages. Out: the texts as a hasty, unschooled or bilingual person types them. What is
random `perturb` draws from the text itself, so that a query is perturbed alike in every run, process and list.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import regex
from anyascii import anyascii

from hybrid_ir.data import UNSPACED, UNSPACED_CHARACTER, Lexicon, code_switch
from hybrid_ir.types import InputError

PERTURBATIONS = ("typos", "no_diacritics", "transliterated", "code_switched")


def perturb(
    texts: Sequence[str], languages: Sequence[str], kind: str, *, seed: int, rate: float, lexicon: Lexicon | None = None
) -> list[str]:
    """The texts under one of `PERTURBATIONS`; `languages[i]` is the language of `texts[i]`.

    `rate`, in [0, 1], is the probability that a word gets a typo, or that a phrase of the lexicon is code-switched into
    some other language of it; the other two kinds change the whole text. What a text becomes depends on `seed`, `kind`,
    `rate`, the lexicon, its language and itself alone. A text with nothing to change comes back as it was, and none
    becomes empty. Raises InputError for an unknown kind, a rate out of range or a missing lexicon.
    """
    if kind not in PERTURBATIONS:
        raise InputError(f"unknown perturbation {kind!r}; use one of {', '.join(PERTURBATIONS)}")
    if not 0 <= rate <= 1:
        raise InputError(f"the rate of a perturbation must be in [0, 1], got {rate}")
    if kind == "code_switched" and lexicon is None:
        raise InputError("code_switched needs a lexicon, found none; give a file or folder, or CLDR's names")
    perturbed = []
    for text, language in zip(texts, languages, strict=True):
        generator = _generator(seed, kind, language, text)
        match kind:
            case "typos":
                text = typos(text, rate, generator)
            case "no_diacritics":
                text = strip_diacritics(text)
            case "transliterated":
                text = transliterate(text)
            case "code_switched":
                assert lexicon is not None
                text = code_switch(text, lexicon, language, lexicon.targets(language), rate, generator)
        perturbed.append(text)
    return perturbed


def _generator(seed: int, kind: str, language: str, text: str) -> np.random.Generator:
    key = f"{seed}/{kind}/{language}/{text}".encode("utf-8", "surrogatepass")
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))


# ---- typos

# Between spaces a run of letters is a word; where there are none, two characters count as one.
_WORD = regex.compile(rf"(?:{UNSPACED_CHARACTER}){{1,2}}|(?:(?![{UNSPACED}])\p{{L}}[\p{{M}}\u200c\u200d]*)+")
_CHARACTER = regex.compile(r"\X")


def typos(text: str, rate: float, generator: np.random.Generator) -> str:
    """Each word with probability `rate` gets one typo: neighbours swapped, a letter dropped, doubled or replaced.

    A letter has its marks with it. It is replaced by one of the same script that the text has elsewhere. Digits and
    punctuation stay, and no word disappears.
    """
    seen = sorted({letter for word in _WORD.findall(text) for letter in _CHARACTER.findall(word.lower())})
    return _WORD.sub(
        lambda word: _misspelt(word[0], seen, generator) if generator.random() < rate else word[0],
        text,
    )


def _misspelt(word: str, seen: Sequence[str], generator: np.random.Generator) -> str:
    """The word with one typo, which changes it. Of the four kinds those are drawn from that can."""
    letters = _CHARACTER.findall(word)
    at = int(generator.integers(len(letters)))
    swappable = [i for i in range(len(letters) - 1) if letters[i] != letters[i + 1]]
    script = _script(letters[at].lower())
    others = [letter for letter in seen if letter != letters[at].lower() and _script(letter) == script]
    kinds = ["double"] + ["drop"] * (len(letters) > 1) + ["swap"] * bool(swappable) + ["replace"] * bool(others)
    match kinds[int(generator.integers(len(kinds)))]:
        case "double":
            letters[at] *= 2
        case "drop":
            del letters[at]
        case "swap":
            at = swappable[int(generator.integers(len(swappable)))]
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        case "replace":
            other = others[int(generator.integers(len(others)))]
            letters[at] = other.upper() if letters[at].isupper() else other
    return "".join(letters)


def _script(letter: str) -> str:
    """The first word of its Unicode name, which is the script for letters: GREEK SMALL LETTER ALPHA."""
    return unicodedata.name(letter[0], "").partition(" ")[0]


# ---- diacritics

# In decomposed text. What is left out in hasty or unschooled typing goes; what makes another word stays.
_DIACRITIC = regex.compile(
    r"(?<=[\p{Latin}\p{Greek}]\p{Mn}*)\p{Mn}"
    r"|(?<=[аеиоуыэюяіє]\p{Mn}*)[\u0300\u0301]|(?<=е\p{Mn}*)\u0308"  # stress and ё; й and ї are letters of their own
    r"|(?<=\p{Arabic}\p{Mn}*)[\u064b-\u0652\u0670]|(?<=\u0627\p{Mn}*)[\u0653-\u0655]"  # short vowels; hamza on alef
    r"|(?<=\p{Hebrew}\p{Mn}*)[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7]"  # points and cantillation
    r"|(?<=\p{Devanagari}\p{Mn}*)\u093c",  # nukta
    regex.IGNORECASE,
)
# Letters that Unicode does not decompose.
_PLAIN = str.maketrans("đĐłŁøØħĦŧŦı", "dDlLoOhHtTi")


def strip_diacritics(text: str) -> str:
    """The text as it is typed without diacritics; NFC where something changed.

    Latin and Greek letters lose all marks (also đ, ł, ø, ħ, ŧ and the dotless ı become plain), Cyrillic ones stress
    and the dots of ё, Arabic the short vowels and the hamza or madda of alef, Hebrew its points, Devanagari the nukta.
    Vowel signs of Indic scripts, everything in Thai, and Japanese and Korean stay: without them it is another word.
    """
    decomposed = unicodedata.normalize("NFD", text)
    plain = _DIACRITIC.sub("", decomposed).translate(_PLAIN)
    return unicodedata.normalize("NFC", plain) if plain != decomposed else text


# ---- Latin letters

# Letters, digits and punctuation that Latin writing does not have; its own dashes and quotes are below U+2070.
_NOT_LATIN = regex.compile(r"(?:(?![\p{Latin}\u0000-\u024f\u2000-\u206f])[\p{L}\p{N}\p{P}][\p{M}\u200c\u200d]*)+")


def transliterate(text: str) -> str:
    """The text in Latin letters, by the table of `anyascii`, letter for letter: Привет is Privet, 中国 is ZhongGuo.

    What is in Latin letters already keeps its diacritics, and symbols stay, as do letters the table does not have.
    """
    return _NOT_LATIN.sub(lambda run: anyascii(run[0]) or run[0], text)
