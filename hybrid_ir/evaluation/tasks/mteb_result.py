"""What an evaluation found, as a result of mteb: `mteb.json`, which mteb opens as one of its own.

In: what `metrics.json` holds of a judged set. Out: the content of a file that `mteb.results.TaskResult.from_disk` reads
(looked up in mteb 2.26.24): `scores` has a list for the split, in which each subset has its languages and its scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_ir.languages import language_and_script

SCORES = {
    "nDCG@10": "ndcg_at_10",
    "nDCG@20": "ndcg_at_20",
    "RR@10": "mrr_at_10",
    "R@100": "recall_at_100",
    "AP": "map_at_1000",
}
"""What mteb calls our measures. It has them from trec_eval as we do, but for the reciprocal rank, which is its own."""


@dataclass(frozen=True, slots=True)
class MtebTask:
    """A task's name and split in mteb. `tags` are what mteb calls the languages of a task whose subsets are pairs of
    them, by code: deu_Latn for de. Other tasks have a subset for each language of the summary."""

    name: str
    split: str = "test"
    tags: Mapping[str, str] = field(default_factory=dict)


def mteb_result(task: MtebTask, content: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a task. The first measure of the summary is its main score, and `content` the data's revision.

    A subset of a pair of languages is named passages first, as mteb names them: `deu_Latn-eng_Latn`.
    """
    subsets = {}
    if task.tags:
        alone = [{"language": code, "passage_language": code, **row} for code, row in summary["per_language"].items()]
        for row in summary.get("pairs", alone):
            subsets[f"{task.tags[row['passage_language']]}-{task.tags[row['language']]}"] = row
    else:
        subsets = summary["per_language"]
    measures = list(summary["measures"])
    return {
        "dataset_revision": content,
        "task_name": task.name,
        "mteb_version": None,  # it was not mteb that measured
        "evaluation_time": summary["seconds"],
        "scores": {
            task.split: [
                {
                    "hf_subset": name,
                    "languages": list(dict.fromkeys(filter(None, map(language_and_script, name.split("-"))))),
                    "main_score": row[measures[0]],
                    **{SCORES[measure]: row[measure] for measure in measures},
                }
                for name, row in subsets.items()
            ]
        },
    }
