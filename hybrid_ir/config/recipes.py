"""Named trainings, as changes to an experiment. In: an experiment, values at dotted paths. Out: an experiment.

The mixes are those of the paper's table 1, LAReQA's X-X, and the usual baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_ir.config.experiment import Experiment
from hybrid_ir.config.loading import parse_experiment, set_value
from hybrid_ir.types import InputError

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "monolingual": {"batch": {"mix": {"monolingual": 1.0}}},
    "cross_lingual": {"batch": {"mix": {"cross_lingual": 1.0}}},
    "multilingual": {"batch": {"mix": {"multilingual": 1.0}}},
    "hybrid": {"batch": {"mix": {"monolingual": 0.5, "cross_lingual": 0.5}}},
    "english_only": {"batch": {"mix": {"monolingual": 1.0}, "languages": ("en",)}},
    # arXiv 2104.08821. Dropout alone tells the two vectors of a text apart: the paper's 0.1 (its section 3), and one
    # prefix for both. Supervised: English pairs, each with its hard negative, which the store must have.
    "simcse": {
        "encoder": {"dropout": 0.1, "query_prefix": "", "passage_prefix": ""},
        "batch": {"mix": {"monolingual": 1.0}, "positives": "same_text"},
        "loss": {"negatives": "in_batch"},
    },
    "simcse_supervised": {
        "batch": {"mix": {"monolingual": 1.0}, "languages": ("en",)},
        "loss": {"negatives": "in_batch_and_hard"},
    },
    # The shuffled mixture: every row in its own language, languages by their size.
    "multilingual_finetuning": {"batch": {"mix": {"multilingual": 1.0}, "language_temperature": 1.0}},
    "code_switched": {"batch": {"mix": {"monolingual": 1.0}, "code_switch": 0.5}},  # arXiv 2305.05295
}


def with_values(base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """`base` with other values at dotted paths, checked as a file's are. The path `recipe` stands for what the named
    recipe changes. Raises InputError for an unknown path or recipe, or a value that its field refuses."""
    tree = base.model_dump(mode="json")
    for path, value in values.items():
        if path != "recipe":
            set_value(tree, path, value)
            continue
        if value not in RECIPES:
            raise InputError(f"unknown mix or recipe {value!r}; there are {', '.join(RECIPES)}")
        for section, changes in RECIPES[value].items():
            for field, setting in changes.items():
                set_value(tree, f"{section}.{field}", setting)
    return parse_experiment(tree, ", ".join(f"{path}={value}" for path, value in values.items()))
