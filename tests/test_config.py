"""The config: one set of dotted paths for files and overrides, and errors that say what to write instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from readers import CASES, needs_cases

from hybrid_ir.config.experiment import Batch, EncoderSection, Evaluate, Experiment, Index, Loss, Prepare, Serve, Train
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.config.recipes import RECIPES, with_values
from hybrid_ir.config.section import Section, fields_of, on_resume
from hybrid_ir.config.sources import SOURCES, AtlasSource, LareqaSource, SquadSource
from hybrid_ir.config.yaml_input import parse_overrides, read_mapping
from hybrid_ir.tuning.axes import Range, Simplex
from hybrid_ir.tuning.comparison import list_recipes
from hybrid_ir.tuning.search_space import Asha, Space
from hybrid_ir.tuning.studies.study import Benchmark
from hybrid_ir.types import InputError

CHECKOUT = Path(__file__).parents[1]
CONFIGS = [CHECKOUT / "hybrid_ir" / "config" / "base.yaml", *sorted((CHECKOUT / "tune_configs").glob("*.yaml"))]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def leaves(tree, prefix=""):
    """Every (dotted path, value) of nested mappings; a list is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# What is accepted


@pytest.mark.parametrize("file", CONFIGS, ids=lambda p: p.name)
def test_every_config_of_the_repository_loads(file):
    assert isinstance(load_experiment(file), Experiment)


def test_there_is_a_quickstart_config():
    assert "quickstart.yaml" in [p.name for p in CONFIGS]


def test_nothing_given_is_the_defaults():
    assert load_experiment(None) == Experiment()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda p: p.name)
def test_overrides_address_the_same_paths_as_a_file(file):
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert load_experiment(None, [f"{path}={json.dumps(value)}" for path, value in leaves(tree)]) == load_experiment(
        file
    )


def test_base_yaml_has_every_key_with_its_default():
    base = yaml.safe_load(CONFIGS[0].read_text(encoding="utf-8"))
    defaults = Experiment().model_dump(mode="json")
    assert {path for path, _ in leaves(base)} == {path for path, _ in leaves(defaults)}
    assert load_experiment(CONFIGS[0]) == Experiment()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        (".inf", float("inf")),
        ("0b11", "0b11"),
        ("=", "="),
    ],
)
def test_words_mean_what_yaml_1_2_says_in_a_file_in_a_list_and_on_the_command_line(tmp_path, word, value):
    file = write(tmp_path / "a.yaml", f"key: {word}\n")
    for found in (
        read_mapping(file)["key"],
        dict(parse_overrides([f"key={word}"]))["key"],
        dict(parse_overrides([f"key=[{word}]"]))["key"][0],
    ):
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a #1/run", "a #1/run"),
        ("#1", "#1"),
        ("query: ", "query: "),
        ("s3://bucket/a: b", "s3://bucket/a: b"),
        ("*a", "*a"),
        ("- a", "- a"),
        ("'a #1'", "a #1"),
        ('["a #1", b]', ["a #1", "b"]),
        ("", None),
    ],
)
def test_a_value_on_the_command_line_keeps_all_that_is_in_it(text, value):
    assert dict(parse_overrides([f"out={text}"])) == {"out": value}


@pytest.mark.parametrize("text", ["[a #1, b]", "'a' #1", "{a: b #1}", "[a] b"])
def test_what_yaml_would_drop_is_refused(text):
    with pytest.raises(InputError, match=r"the value of .out=.*(quote|expected)"):
        list(parse_overrides([f"out={text}"]))


def test_a_repeated_key_is_refused_with_both_lines(tmp_path):
    text = "batch: {size: 8}\ntrain: {steps: 7}\ntrain: {learning_rate: 1e-4}\n"
    with pytest.raises(InputError, match=r"a\.yaml: 'train' stands in line 2 and again in line 3; keep one of them"):
        load_experiment(write(tmp_path / "a.yaml", text))
    with pytest.raises(InputError, match=r"batch.mix.*: 'monolingual' stands twice in line 1"):
        load_experiment(None, ["batch.mix={monolingual: 1, monolingual: 2}"])


def test_an_alias_may_repeat_a_value_but_not_without_end(tmp_path):
    assert read_mapping(write(tmp_path / "a.yaml", "a: &x [1, 2]\nb: *x\n")) == {"a": [1, 2], "b": [1, 2]}
    assert read_mapping(write(tmp_path / "a.yaml", "a: &x {c: 1}\nb:\n  <<: *x\n"))["b"] == {"c": 1}
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    with pytest.raises(InputError, match="stands for more than 100,000 values with its aliases"):
        load_experiment(write(tmp_path / "a.yaml", laughs))
    with pytest.raises(InputError, match="has an alias that stands for itself"):
        load_experiment(write(tmp_path / "a.yaml", "batch: &b {mix: *b}\n"))


def test_a_file_of_another_encoding_or_none_is_said(tmp_path):
    (tmp_path / "a.yaml").write_text("out: für", encoding="latin-1")
    with pytest.raises(InputError, match=r"a\.yaml cannot be read as UTF-8 text"):
        load_experiment(tmp_path / "a.yaml")


@needs_cases
def test_norwegian_and_a_repeated_key_of_people_s_files():
    loaded = load_experiment(CASES / "norwegian.yaml")
    assert (loaded.batch.languages, loaded.train.learning_rate) == (("no", "en"), 1e-4)
    with pytest.raises(InputError, match="'train' stands in line 2 and again in line 3"):
        load_experiment(CASES / "duplicate_keys.yaml")


def test_an_override_changes_one_value_and_the_last_one_wins(tmp_path):
    file = write(tmp_path / "a.yaml", "seed: 3\nbatch: {size: 32}\ntrain:\n")
    loaded = load_experiment(file, ["batch.alpha=0.25", "train.steps=7", "train.steps=8", "out=runs/b"])
    expected = Experiment().model_dump() | {"seed": 3, "out": "runs/b"}
    expected["batch"] |= {"size": 32, "alpha": 0.25}
    expected["train"]["steps"] = 8
    assert loaded.model_dump() == expected


def test_overrides_reach_into_lists_of_a_file_and_of_the_defaults(tmp_path):
    file = write(tmp_path / "a.yaml", "prepare: {sources: [{kind: atlas}, {kind: lareqa, path: x}]}")
    sources = load_experiment(file, ["prepare.sources.1.path=y", "prepare.sources.0.use=train"]).prepare.sources
    assert sources == (AtlasSource(kind="atlas", use="train"), LareqaSource(kind="lareqa", path="y"))
    sources = load_experiment(None, ["prepare.sources.0.languages=[en, de]"]).prepare.sources
    assert sources == (AtlasSource(kind="atlas", languages=("en", "de")),)


def test_values_are_yaml():
    loaded = load_experiment(
        None,
        ["batch.languages=[en, de]", "batch.mix={multilingual: 1}", "train.learning_rate=1e-3", "loss.symmetric=true"],
    )
    assert loaded.batch.languages == ("en", "de")
    assert loaded.batch.weights == {"multilingual": 1}
    assert (loaded.train.learning_rate, loaded.loss.symmetric) == (0.001, True)
    source = "prepare.sources=[{kind: squad, files: {en: a.json, es: b.json}}]"
    assert load_experiment(None, [source]).prepare.sources == (
        SquadSource(kind="squad", files={"en": "a.json", "es": "b.json"}),
    )


def test_alpha_is_the_share_of_monolingual_batches_and_a_mix_overrules_it():
    assert Batch(alpha=0.25).weights == {"monolingual": 0.25, "cross_lingual": 0.75}
    assert Batch(alpha=1).weights == {"monolingual": 1}
    assert Batch(alpha=0).weights == {"cross_lingual": 1}
    assert Batch(alpha=1, mix={"multilingual": 3, "cross_lingual": 1, "monolingual": 0}).weights == {
        "cross_lingual": 0.25,
        "multilingual": 0.75,
    }


def test_a_config_is_frozen():
    experiment = load_experiment(None)
    for section, field in (
        (experiment, "seed"),
        (experiment.batch, "size"),
        (experiment.prepare.sources[0], "languages"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 1)


# What every field says of itself


FREE_ON_RESUME = {
    "out", "store", "train.workers", "train.cpus_per_worker", "train.gpus_per_worker", "train.threads_per_worker",
    "train.feed", "train.data_actors", "train.cpus_per_data_actor", "train.max_failures", "train.checkpoint_every",
    "train.checkpoint_minutes", "train.checkpoints_kept", "train.micro_batch_tokens", "loss.cached",
    "train.trackers", "train.compile", "train.flash_attention", "train.gradient_checkpointing",
    "train.cpus_per_validation", "train.gpus_per_validation",
    "evaluate.precision", "evaluate.token_budget", "evaluate.bootstrap_rounds",
}  # fmt: skip
"""Where a run goes on and how fast, not what it computes. What is prepared, indexed and served is free as a whole."""


def test_every_setting_has_chosen_whether_a_resumed_run_may_change_it():
    paths = [path for path, field in fields_of(Experiment) if not isinstance(field.default, Section)]
    assert {path for path, _ in leaves(Experiment().model_dump(mode="json"))} == set(paths)
    chosen = {path: on_resume(Experiment, path) for path in paths}
    assert {path for path, choice in chosen.items() if choice not in ("keep", "free")} == set()
    whole = {path for path in paths if path.startswith(("prepare.", "index.", "serve."))}
    assert {path for path, choice in chosen.items() if choice == "free"} == FREE_ON_RESUME | whole


def test_what_lies_in_a_setting_is_as_free_as_it_and_what_is_no_setting_has_chosen_nothing():
    assert on_resume(Experiment, "batch.mix.monolingual") == "keep"
    assert on_resume(Experiment, "prepare.sources.0.path") == "free"
    assert on_resume(Experiment, "train.was_a_setting_once") is None


@pytest.mark.parametrize(
    "section",
    [
        *(Prepare, EncoderSection, Batch, Loss, Train, Evaluate, Index, Serve, Experiment),
        *(*SOURCES.values(), Range, Simplex, Asha, Space, Benchmark),
    ],
    ids=lambda section: section.__name__,
)
def test_every_field_says_what_it_does(section):
    assert {name for name, field in section.model_fields.items() if not field.description} == set()


# What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # Unknown keys, at every depth.
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("btach.size=8", "unknown key 'btach'; did you mean 'batch'?"),
        ("batch.sise=8", "unknown key 'batch.sise'; did you mean 'batch.size'?"),
        ("train.max_failure=1", "unknown key 'train.max_failure'; did you mean 'train.max_failures'?"),
        (
            "prepare.sources.0.langages=[en]",
            "unknown key 'prepare.sources.0.langages'; did you mean 'prepare.sources.0.languages'?",
        ),
        # A key that is called as a source is.
        ("records=1", "unknown key 'records'; did you mean"),
        ("batch.alpah=1", "unknown key 'batch.alpah'; did you mean 'batch.alpha'?"),
        # A key that belongs elsewhere.
        ("alpha=0.5", "unknown key 'alpha'; did you mean 'batch.alpha'?"),
        ("batch.learning_rate=1", "unknown key 'batch.learning_rate'; did you mean 'train.learning_rate'?"),
        # Nothing is near: what there is.
        ("loss.xyz=1", "known keys here: loss.temperature, loss.symmetric, loss.negatives, loss.cached"),
        # Ranges and types.
        ("batch.alpha=1.5", "batch.alpha: input should be less than or equal to 1, got 1.5"),
        ("batch.alpha=-0.1", "batch.alpha: input should be greater than or equal to 0, got -0.1"),
        ("batch.alpha=.nan", "batch.alpha: input should be a finite number, got nan"),
        ("batch.alpha=half", "batch.alpha: input should be a valid number, .* got 'half'"),
        ("batch.size=1", "batch.size: input should be greater than or equal to 2, got 1"),
        ("batch.size=8.5", "batch.size: input should be a valid integer.* got 8.5"),
        ("batch.languages=en", "batch.languages: input should be a valid tuple, got 'en'"),
        ("batch.languages=[en, true]", "batch.languages.1: input should be a valid string, got True"),
        ("batch.languages=[]", "batch.languages: tuple should have at least 1 item"),
        ("seed=null", "seed: input should be a valid integer, got None"),
        ("batch=null", "batch: input should be a valid dictionary.*, got None"),
        ("loss.temperature=0", "loss.temperature: input should be greater than 0, got 0"),
        ("train.precision=fp16", "train.precision: input should be 'auto', 'bf16' or 'fp32', got 'fp16'"),
        # Mixes.
        ("batch.mix={hybrid: 1}", "batch.mix.hybrid: input should be 'monolingual', 'cross_lingual' or 'multilingual'"),
        ("batch.mix={monolingual: -1}", "batch.mix.monolingual: input should be greater than or equal to 0, got -1"),
        (
            "train={compile: true, flash_attention: true}",
            "train: compile and flash_attention=true exclude each other: set one of them to false",
        ),
        ("batch.mix={monolingual: 0}", "batch: mix must have a positive weight, got {'monolingual': 0.0}"),
        # Sources.
        ("prepare.sources=[]", "prepare: sources is empty: name at least one"),
        ("prepare.sources.0.kind=atlass", "prepare.sources.0: kind must be one of atlas, lareqa, .*, got 'atlass'"),
        ("prepare.sources=[{path: x}]", "prepare.sources.0: kind must be one of atlas, .*, got None"),
        ("prepare.sources=[{kind: lareqa}]", "prepare.sources.0.path: field required"),
        ("prepare.sources=[atlas]", "prepare.sources.0: input should be a valid dictionary"),
        ("prepare.test_fraction=0.97", "validation_fraction \\+ test_fraction must leave documents to train on"),
        # Overrides that are none.
        ("train.steps", "an override must look like train.steps=100, got 'train.steps'"),
        ("=3", "an override must look like train.steps=100, got '=3'"),
        ("batch.mix={", "the value of 'batch.mix={' is not readable YAML"),
        ("prepare.sources.1.kind=atlas", "prepare.sources.1: the list has 1 entries, numbered from 0"),
        ("prepare.sources.first.kind=atlas", "prepare.sources.first: the list has 1 entries, numbered from 0"),
        ("seed.x=1", "seed is a value, it has no key 'x'|seed: input should be a valid integer"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused_in_words(override, message):
    with pytest.raises(InputError, match=message) as raised:
        load_experiment(None, [override])
    assert "\n" not in str(raised.value)


def test_every_mistake_is_named_with_the_file_it_came_from(tmp_path):
    file = write(tmp_path / "mine.yaml", "batch: {sise: 3, alpha: 2}\n")
    with pytest.raises(InputError) as raised:
        load_experiment(file)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert all(line.endswith(f"({file})") for line in lines)
    with pytest.raises(InputError, match=r"mine.yaml \+ command line\)"):
        load_experiment(file, ["seed=1"])
    with pytest.raises(InputError, match="\\(command line\\)"):
        load_experiment(None, ["seed=x"])


def test_a_key_inside_a_value_of_the_file_is_refused(tmp_path):
    file = write(tmp_path / "mine.yaml", "seed: 3\n")
    with pytest.raises(InputError, match="seed is a value, it has no key 'x'"):
        load_experiment(file, ["seed.x=1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1", "is not readable YAML: .* line 1"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
        (b"- seed", "must hold a mapping at its top, found list"),
        (b"just words", "must hold a mapping at its top, found str"),
        (b"1: 2", "unknown key '1'|config: keys should be strings|1: keys should be strings"),
        (b"? [a, b]\n: 2", "is not readable YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_experiment(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"no config file at .*nowhere.yaml; the repository's tune_configs/ has examples"
    ):
        load_experiment(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="no config file at"):
        load_experiment(tmp_path)


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load_experiment(write(tmp_path / "empty.yaml", "# nothing\n")) == Experiment()


# Named trainings


def test_every_recipe_is_a_valid_experiment_that_changes_what_it_says():
    base = Experiment()
    for name, changes in RECIPES.items():
        found = with_values(base, {"recipe": name}).model_dump()
        for section, fields in changes.items():
            for field, value in fields.items():
                assert found[section][field] == value, (name, field)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown mix or recipe 'hybird'; there are monolingual, .*code_switched"):
        list_recipes(Experiment(), ["hybird"])


def test_values_are_checked_as_a_file_is():
    assert with_values(Experiment(), {"batch.alpha": 0.3, "encoder.name": "mini"}).batch.alpha == 0.3
    with pytest.raises(InputError, match=r"unknown key 'batch.alfa'; did you mean 'batch.alpha'"):
        with_values(Experiment(), {"batch.alfa": 0.3})


def test_a_text_cannot_be_paired_with_itself_across_languages():
    with pytest.raises(InputError, match="same_text pairs a text with itself, which has one language"):
        load_experiment(None, ["batch.positives=same_text"])
    assert load_experiment(None, ["batch.positives=same_text", "batch.alpha=1"]).batch.positives == "same_text"
