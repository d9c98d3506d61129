"""The quickstart's encoder, trained as the quickstart trains it, answers questions in ten languages.

It needs the package index, as the quickstart does.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_ir.index import Hit, ShardQuery, merge
from hybrid_ir.serving.local_release import LocalRelease

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "tune_configs" / "quickstart.yaml")
# Language, question, the facts that answer it, another language. Nobody wrote these words into the data set.
QUESTIONS = [
    ("en", "What money do I need in Switzerland?", {"currency/CH"}, "de"),
    ("es", "¿Qué idioma habla la mayoría en Brasil?", {"most_spoken_language/BR", "official_language/BR"}, "ru"),
    ("de", "Seit wann zahlt man in Spanien mit dem heutigen Geld?", {"currency_year/ES"}, "tr"),
    ("el", "Τι νόμισμα έχει η Σουηδία;", {"currency/SE"}, "en"),
    ("ru", "Какими деньгами платят в Польше?", {"currency/PL"}, "ar"),
    ("tr", "Monako'da hangi para kullanılır?", {"currency/MC"}, "vi"),
    ("ar", "ما هي عملة اليابان؟", {"currency/JP"}, "zh"),
    ("hi", "नेपाल की मुद्रा क्या है?", {"currency/NP"}, "th"),
    ("th", "ประเทศไทยใช้เงินสกุลอะไร", {"currency/TH"}, "es"),
    ("zh", "墨西哥用什么钱？", {"currency/MX"}, "hi"),
]


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "hybrid_ir.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("quickstart")
    store = f"store={folder / 'store'}"
    run("prepare", "--config", CONFIG, store)
    run("train", "--config", CONFIG, store, f"out={folder / 'hybrid'}")
    index = str(folder / "index")
    run("index", "--config", CONFIG, "--checkpoint", str(folder / "hybrid" / "checkpoint"),
        "--passages", str(folder / "store"), "--out", index)  # fmt: skip
    release = LocalRelease(index)
    yield release
    release.close()


async def first_hit(release: LocalRelease, question: str, language: str) -> str:
    """doc_id of the best passage in a language."""
    encoded = await release.encode([question], "query")
    query = ShardQuery(k=1, languages=(language,))
    parts = [(await release.search(n, encoded.vectors, [query]))[0][0] for n in range(len(release.manifest.shards))]
    hit: Hit = merge(parts, 1, lossy=False)[0]
    return (await release.read(hit.shard, [hit.row]))[0].doc_id


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("language", ["the same", "another"])
def test_the_first_hit_is_right_for_nine_of_ten_questions(release: LocalRelease, language: str):
    """Each question asked for passages in its own language, and for passages in another one."""
    wrong = []
    for own, question, right, other in QUESTIONS:
        found = asyncio.run(first_hit(release, question, own if language == "the same" else other))
        if not any(found.endswith(each) for each in right):
            wrong.append((question, found))
    assert len(wrong) <= 1, wrong
