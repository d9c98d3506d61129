"""What an experiment asks of its batches. In: an experiment and its store. Out: the plan, the lexicon, the builder."""

from __future__ import annotations

from hybrid_ir.batches.builder import BatchBuilder
from hybrid_ir.batches.by_source import partitions_by_source
from hybrid_ir.batches.plan import Plan, make_plan
from hybrid_ir.batches.tasks import check_tasks
from hybrid_ir.batches.teacher import check_teacher
from hybrid_ir.config import Experiment
from hybrid_ir.data import Lexicon, Store, cldr_lexicon, read_lexicon
from hybrid_ir.encoders import TextReader
from hybrid_ir.types import InputError

MOST_EPOCHS_APART = 2.0


def plan_for(store: Store, experiment: Experiment) -> Plan:
    """The plan of an experiment over a store. Raises InputError for what the store cannot serve."""
    partitions, wanted = store.partitions, experiment.batch.hard_negatives
    if experiment.loss.negatives != "in_batch":
        partitions = tuple(p for p in partitions if p.negatives)
        if not partitions:
            raise InputError(
                f"loss.negatives={experiment.loss.negatives} needs groups with hard negatives, and {store.path} has "
                "none; find some with hybrid-ir mine, use loss.negatives=in_batch, or prepare a source with negatives"
            )
        most = max(partition.most_negatives for partition in partitions)
        if wanted > most:
            raise InputError(
                f"batch.hard_negatives={wanted}, but no group of {store.path} has more than {most} in a language; "
                f"set batch.hard_negatives={most}, or find more with hybrid-ir mine --negatives"
            )
    elif wanted > 1:
        raise InputError(
            f"batch.hard_negatives={wanted} needs a loss that has them; set loss.negatives=in_batch_and_hard or triplet"
        )
    check_teacher(store, experiment, partitions)
    sources, one_source = experiment.batch.source_weights, experiment.batch.one_source
    if sources is not None or one_source:
        partitions = partitions_by_source(store, partitions)
    for name in {name: None for weights in (sources or {}).values() for name in weights}:
        if name not in store.sources:
            raise InputError(f"batch.sources names {name!r}, which the store lacks; it has {', '.join(store.sources)}")
        if not any(p.source == name for p in partitions):
            kept = "with hard negatives" if experiment.loss.negatives != "in_batch" else "to train on"
            raise InputError(f"batch.sources names {name!r}, of which {store.path} has no group {kept}; leave it out")
    check_tasks(experiment.batch.tasks, store)
    plan = make_plan(
        partitions,
        weights=experiment.batch.weights,
        batch_size=experiment.batch.size,
        seed=experiment.seed,
        cross_lingual=experiment.batch.cross_lingual,
        languages=experiment.batch.languages,
        language_temperature=experiment.batch.language_temperature,
        sources=sources,
        one_source=one_source,
    )
    if experiment.batch.size < experiment.train.workers:
        raise InputError(
            f"batch.size={experiment.batch.size} cannot be split over train.workers={experiment.train.workers}"
        )
    return plan


def uneven_epochs(plan: Plan, steps: int) -> str | None:
    """What a user should hear before a training that goes through some groups far more often than through others."""
    epochs = plan.epochs(steps)
    often, seldom = max(epochs, key=epochs.__getitem__), min(epochs, key=epochs.__getitem__)
    if epochs[often] - epochs[seldom] <= MOST_EPOCHS_APART:
        return None
    of = {
        p.name: f"the {p.rows:,} groups {f'of {p.source} ' if p.source else ''}in {'+'.join(p.languages)}"
        for p in plan.partitions
    }
    why = "languages and pairs have equal shares of the batches; batch.language_temperature=1 weighs them by their size"
    if plan.asked_sources():
        why = f"within a source, {why}, and batch.sources weighs sources"
    return f"{of[often]} are gone through {epochs[often]:.1f} times, {of[seldom]} {epochs[seldom]:.1f} times: {why}"


def source_shares(plan: Plan, steps: int) -> list[tuple[str, float, float]]:
    """Each source with the share of the first `steps` batches' rows that is asked of it, and how often its groups come.

    [] where sources have no part in the mix.
    """
    asked, rows = plan.asked_sources(), plan.realised_sources(steps)
    found = []
    for name in sorted({name for shares in asked.values() for name in shares}):
        share = sum(shares.get(name, 0.0) for shares in asked.values())
        taken = sum(each.get(name, 0) for each in rows.values())
        found.append((name, share, taken / sum(p.rows for p in plan.partitions if p.source == name)))
    return found


def builder_for(experiment: Experiment, store: Store, plan: Plan, reader: TextReader) -> BatchBuilder:
    """The builder of an experiment's batches. Raises InputError as `lexicon_for` does."""
    return BatchBuilder(
        store,
        plan,
        reader,
        negatives=experiment.batch.hard_negatives if experiment.loss.negatives != "in_batch" else 0,
        positives=experiment.batch.positives,
        code_switch=experiment.batch.code_switch,
        lexicon=lexicon_for(experiment, store, plan),
        taught=store.manifest["taught"] if experiment.loss.teacher else None,
        parallel=experiment.loss.alignment > 0,
        tasks=experiment.batch.tasks,
    )


def lexicon_for(experiment: Experiment, store: Store, plan: Plan) -> Lexicon | None:
    """What code-switching translates with, from the languages of training into any of the store; None without it.

    Raises InputError for a lexicon that cannot be read, or that has nothing for these languages.
    """
    if not experiment.batch.code_switch:
        return None
    name = experiment.batch.lexicon
    lexicon = cldr_lexicon(store.languages) if name == "cldr" else read_lexicon(name)
    if not any(set(lexicon.targets(x)) & set(store.languages) for x in plan.languages):
        have = ", ".join(sorted(f"{a}-{b}" for a, b in lexicon.pairs)[:8])
        raise InputError(
            f"batch.lexicon={name} translates none of the languages of training ({', '.join(plan.languages)}) into "
            f"another of the store ({', '.join(store.languages)}); it has {have}"
        )
    return lexicon
