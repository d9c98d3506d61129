"""What follows a step, worked by hand for a run of 30 steps that validates every 10 and saves every 4."""

from __future__ import annotations

import dataclasses

import pytest

from hybrid_ir.config.experiment import Train
from hybrid_ir.training.decision import Decision, decide

INLINE = Train(steps=30, evaluate_every=10, checkpoint_every=4)
ASYNC = INLINE.model_copy(update={"validation": "async"})
BARE = Train(steps=30)
"""Neither validates nor saves on the way."""


@pytest.mark.parametrize(
    ("settings", "done", "stop", "can_validate", "decision"),
    [
        (INLINE, 7, False, True, Decision(None, False, "continue")),
        (INLINE, 8, False, True, Decision(None, True, "continue")),  # a checkpoint is due
        (INLINE, 10, False, True, Decision("inline", True, "continue")),  # a validation is, which saves too
        (INLINE, 20, False, True, Decision("inline", True, "continue")),  # both are
        (INLINE, 10, False, False, Decision(None, False, "continue")),  # nothing to validate on
        (INLINE, 20, False, False, Decision(None, True, "continue")),
        (INLINE, 30, False, True, Decision("inline", True, "finish")),  # the last step
        (INLINE, 30, False, False, Decision(None, True, "finish")),
        (INLINE, 7, True, True, Decision(None, True, "stop")),  # a stop in the middle saves
        (INLINE, 10, True, True, Decision(None, True, "stop", True)),  # and the validation is to be made up
        (INLINE, 30, True, False, Decision(None, True, "finish")),  # nothing was left to do
        (INLINE, 30, True, True, Decision("inline", True, "finish")),  # it would resume at a step that is not there
        (ASYNC, 8, False, True, Decision(None, True, "continue")),
        (ASYNC, 10, False, True, Decision("async", True, "continue")),
        (ASYNC, 10, True, True, Decision("async", True, "stop")),  # a task of its own measures what is saved anyway
        (ASYNC, 30, False, True, Decision("async", True, "finish")),
        (ASYNC, 30, True, True, Decision("async", True, "finish")),
        (BARE, 20, False, True, Decision(None, False, "continue")),
        (BARE, 20, True, True, Decision(None, True, "stop")),
        (BARE, 30, False, True, Decision("inline", True, "finish")),  # the last step is always validated
        (BARE, 30, False, False, Decision(None, True, "finish")),
    ],
)
def test_what_follows_a_step(settings, done, stop, can_validate, decision):
    assert decide(done, settings, stop=stop, can_validate=can_validate) == decision


@pytest.mark.parametrize(
    ("stale", "patience", "then"),
    [(0, 1, "continue"), (1, 1, "finish"), (1, 2, "continue"), (2, 2, "finish"), (99, None, "continue")],
)
def test_a_validation_that_patience_does_not_outlast_finishes(stale, patience, then):
    decision = Decision("inline", True, "continue").after_validation(stale, patience)
    assert decision == Decision("inline", True, then)


def test_a_last_step_is_finished_whatever_patience_says():
    assert Decision("inline", True, "finish").after_validation(0, 1).then == "finish"


@pytest.mark.parametrize(
    ("decision", "log"),
    [
        (Decision(None, False, "continue"), False),
        (Decision(None, True, "continue"), False),  # a checkpoint alone is no news
        (Decision("inline", True, "continue"), True),
        (Decision("async", True, "continue"), True),
        (Decision(None, True, "stop"), True),
        (Decision(None, True, "finish"), True),
    ],
)
def test_the_log_has_every_step_that_is_validated_or_the_last_of_its_start(decision, log):
    assert decision.log is log


@pytest.mark.parametrize("settings", [INLINE, ASYNC, BARE])
def test_a_checkpoint_that_is_overdue_is_saved_and_nothing_else_changes(settings):
    for done in range(1, 31):
        usual = decide(done, settings, stop=False, can_validate=True)
        overdue = decide(done, settings, stop=False, can_validate=True, overdue=True)
        assert overdue == dataclasses.replace(usual, save=True)
