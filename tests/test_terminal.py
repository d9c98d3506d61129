"""What a terminal would obey in a passage or a message is shown, and not obeyed."""

from __future__ import annotations

import sys

import pytest

from hybrid_ir.cli import app
from hybrid_ir.cli.serving import _print_hits
from hybrid_ir.cli.terminal import counted, printable
from hybrid_ir.types import InputError

ESCAPES = "\x1b[2J\x1b]0;title\x07 a\x9b31mb\x00\x7f\rc\bd"


def obeyed(text: str) -> list[str]:
    return [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)]


def test_what_is_printed_holds_no_control_character_and_keeps_the_rest():
    assert obeyed(printable(ESCAPES)) == []
    kept = "مصر\u200c می‌روم क्\u200dष 👩‍👩‍👧 [bold] é\n2"
    assert printable(kept) == kept
    assert printable("a\tb") == "a b"


def test_escapes_of_a_passage_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]):
    hit = {"position": 1, "score": 0.5, "language": "en", "text": f"before {ESCAPES} after", "doc_id": ESCAPES}
    response = {
        "results": [{"hits": [hit], "cut": False}],
        "coverage": {"complete": True},
        "timings_ms": {"total": 1.0},
    }
    _print_hits(f"a query {ESCAPES}", response)
    printed = capsys.readouterr().out
    assert "before" in printed
    assert "after" in printed
    assert obeyed(printed) == []


def test_escapes_in_a_message_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refuse(**_: object) -> None:
        raise InputError(f"line 3 is wrong: {ESCAPES}")

    monkeypatch.setattr(app, "app", refuse)
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit):
        app.main()
    said = capsys.readouterr().err
    assert "line 3 is wrong" in said
    assert obeyed(said) == []


def test_one_thing_is_said_as_one():
    assert [counted(n, "shard") for n in (0, 1, 2, 12_000)] == ["0 shards", "1 shard", "2 shards", "12,000 shards"]
