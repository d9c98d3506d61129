"""The model card: its header is the hub's, its numbers are those that were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_ir.config.experiment import Experiment
from hybrid_ir.encoders.card import model_card


def card(base: str = "FacebookAI/xlm-roberta-base", **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "name": "hybrid",
        "base": base,
        "languages": ["de", "no", "zh"],
        "store": {
            "content_hash": "c0ffee",
            "sources": {
                "atlas": {"groups": 12345, "train": 10000, "rejected": {}},
                "mine": {"groups": 7, "rejected": {"malformed JSON": 2, "no passage": 3}},
            },
        },
        "ledger": {"kinds": {"cross_lingual": {"asked": 0.5, "realised": 0.49667, "batches": 1490}}},
        "settings": Experiment().model_dump(mode="json"),
        "encoder": {"query_prefix": "query: ", "passage_prefix": "passage: ", "max_tokens": 256, "revision": None},
        "metrics": {"validation": {"AP_multi": 0.61234, "rank_distance": 3.0}, "steps": 3000, "best_step": 2400},
        "dimension": 384,
    }
    return model_card(**(arguments | changes))


def header(text: str) -> dict[str, Any]:
    _, yaml_text, _ = text.split("---\n", 2)
    return yaml.safe_load(yaml_text)


def test_the_header_is_yaml_that_the_hub_reads():
    found = header(card())
    assert card().startswith("---\n")
    assert found["library_name"] == "sentence-transformers"
    assert found["pipeline_tag"] == "sentence-similarity"
    assert found["language"] == ["de", "no", "zh"]  # Norwegian is not False
    assert found["base_model"] == "FacebookAI/xlm-roberta-base"


@pytest.mark.parametrize(
    "base", ["tiny", "mini", "/models/xlmr", "./models/xlmr", "../xlmr", "~/xlmr", "runs/a/checkpoint"]
)
def test_only_a_hub_name_is_a_base_model(base: str):
    assert "base_model" not in header(card(base))


def test_a_folder_that_looks_like_a_hub_name_is_no_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models" / "xlmr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in header(card("models/xlmr"))


def test_the_numbers_are_shown():
    text = card()
    for part in (
        "384 dimensions",
        "Languages: de, no, zh. Store `c0ffee`.",
        "| atlas | 12,345 | 10,000 | 0 |",
        "| mine | 7 | 0 | 5 |",
        "| cross_lingual | 0.5000 | 0.4967 | 1,490 |",
        "3,000 steps of 64 groups (weights of step 2,400), learning rate 3e-05",
        "temperature 0.05 with in_batch negatives, seed 0",
        "cut to 256 tokens",
        "| AP_multi | 0.6123 |",
        "| rank_distance | 3.0000 |",
        "prefix 'query: '",
        "prefix 'passage: '",
    ):
        assert part in text


def test_without_a_validation_split_it_says_so():
    text = card(metrics={"validation": {}, "steps": 10, "best_step": 10})
    assert "| none | no validation split |" in text


def test_prompts_by_language_and_task_are_named():
    encoder = {"query_prefix": "", "passage_prefix": "", "max_tokens": 64, "revision": None}
    assert "prompt_name" not in card(encoder=encoder)
    said = card(encoder={**encoder, "prompts": {"query-de": "Frage: ", "qa": "Q: "}})
    assert "Other prompts, by `model.encode(texts, prompt_name=...)`: `qa`, `query-de`." in said
