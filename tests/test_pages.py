"""The pages against what they speak of: commands against their own parsers; keys, files, variables and examples."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest
import typer
import yaml
from typed_commands import OURS_AND_RAYS, parse, split

from hybrid_ir.cli.app import app
from hybrid_ir.cluster.capacity import parse_request
from hybrid_ir.config.experiment import Experiment, Serve
from hybrid_ir.config.loading import load_experiment, parse_experiment
from hybrid_ir.config.section import fields_of
from hybrid_ir.data.sources.records import read_records
from hybrid_ir.serving.api import PutRequest, RerankRequest, SearchRequest
from hybrid_ir.serving.writing.routes import records_of
from hybrid_ir.tuning.search_space import load_space, parse_space
from hybrid_ir.types import Group

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
ANYONES = {"echo", "export", "pip", "pkill", "python3", "source", "hf", "text-embeddings-router", "trec_eval", "vllm"}
"""Programs whose commands say nothing about this project."""
TO_BE_ADDED = re.compile("tsv|NAME")
"""In the names of files that CONTRIBUTING tells the reader to make."""


def blocks(language: str, pages=TEXTS):
    """(page, content) of the pages' fenced blocks in a language."""
    for page in pages:
        for block in re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.M | re.S):
            yield page, block


def told():
    """(page, argv) of every command, without the folder that its program is in."""
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for program, *arguments in split(line, None):
                yield page, [Path(program).name, *arguments]


TOLD = list(told())


def test_most_pages_have_commands_and_every_block_says_its_language():
    assert {page for page, _ in TOLD} == set(TEXTS) - {"ideas.md", "features.md"}
    for page, text in TEXTS.items():
        opened = re.findall(r"^```(\w*)\n", text, re.M)[::2]
        assert set(opened) <= {"bash", "python", "json", "yaml", "text", *([""] if page == "README.md" else [])}, page


def said_in_the_source():
    """(file, words) of every `hybrid-ir ...` in a text of the package; what is filled in is X."""
    for file in sorted((ROOT / "hybrid_ir").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            texts = []
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts = [node.value]
            elif isinstance(node, ast.JoinedStr):
                texts = ["".join(p.value if isinstance(p, ast.Constant) else "X" for p in node.values)]
            for said in re.findall(r"\bhybrid-ir ((?:[a-z]|--)[^`'\";:,)\n]*)", " ".join(texts)):
                yield file.name, tuple(said.split())


def test_every_command_that_a_message_names_is_one():
    """A message such as "run: hybrid-ir index add --index X" can be typed: its words and its options exist."""
    found = set(said_in_the_source())
    assert len(found) > 8
    for file, words in sorted(found):
        command = typer.main.get_command(app)
        words = list(words)
        while getattr(command, "commands", None) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if command.name == "index" and words and words[0].startswith("-"):
            command = command.commands["build"]
        known = {name for each in command.params for name in each.opts} | {"--help"}
        named = {word.rstrip(".") for word in words if word.startswith("--")}
        assert named <= known, (file, words)
        assert command.name not in (None, "root", "hybrid-ir"), (file, words)


@pytest.mark.parametrize(("page", "argv"), TOLD, ids=[f"{page}: {' '.join(argv)[:60]}" for page, argv in TOLD])
def test_every_command_is_one_that_its_program_knows(page, argv):
    program, *arguments = argv
    if program in OURS_AND_RAYS and "--help" not in arguments:
        name, said = parse(argv)
        if name == "submit":
            name, said = parse(said["entrypoint"])
        if said.get("config_file_name"):
            assert (ROOT / said["config_file_name"]).is_file()
        if program != "serve":
            check_settings(name, said)
    elif program == "make":
        targets = [argument for argument in arguments if "=" not in argument]
        assert all(re.search(f"^{target}:.*##", (ROOT / "Makefile").read_text(), re.M) for target in targets)
        for tests in (argument for argument in arguments if argument.startswith("TESTS=")):
            assert all((ROOT / test).exists() for test in tests.removeprefix("TESTS=").split())
    elif program == "python":
        script = (ROOT / arguments[0]).read_text(encoding="utf-8")
        assert all(
            f'"{argument}"' in script for argument in arguments[1:] if re.match("--|training$|serving$", argument)
        )
    elif program == "curl":
        if any(re.fullmatch("localhost:8000/passages/[^/]+", argument) for argument in arguments):
            return
        if "localhost:8000/passages" in arguments:
            assert records_of(PutRequest.model_validate_json(arguments[-1]), Serve())
            return
        if "localhost:8000/v1/rerank" in arguments:
            assert RerankRequest.model_validate_json(arguments[-1])
            return
        # Ours, and text-embeddings-inference's.
        assert {"localhost:8000/v1/search", "localhost:3000/embed"} & set(arguments)
        if "localhost:8000/v1/search" in arguments:
            SearchRequest.model_validate_json(arguments[-1])
        else:
            assert {"inputs", "prompt_name"} == set(json.loads(arguments[-1]))
    elif program not in OURS_AND_RAYS:
        assert program in ANYONES


def check_settings(name, said):
    """Its files are there, and its `key=value` words are settings. Raises InputError for one that is not."""
    overrides = said.get("overrides") or ()
    if name == "plan-capacity":
        parse_request(overrides)
    elif "overrides" in said:
        config = said.get("config")
        load_experiment(None if config is None else ROOT / config, overrides)
    if name == "tune":
        load_space(ROOT / said["space"])


@pytest.mark.parametrize("page", TEXTS)
def test_keys_files_and_variables_that_a_page_names_are_there(page):
    keys = {path for path, _ in fields_of(Experiment)}
    sections = {path.partition(".")[0] for path in keys if "." in path}
    for word in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.M | re.S)):
        if (key := re.match(r"(\w+)\.\w+(?=$|=)", word)) and key[1] in sections:
            assert key[0] in keys, word
        if re.match(r"(hybrid_ir|benchmarks|cluster|docs|tests|tune_configs)/[\w./*]*$", word):
            assert TO_BE_ADDED.search(word) or list(ROOT.glob(word.rstrip("/"))), word
    code = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("hybrid_ir/**/*.py"), ROOT / "serve_app.py"]
    )
    assert all(variable in code for variable in re.findall(r"HYBRID_IR_[A-Z_]+", TEXTS[page]))


def test_records_on_the_page_are_groups(tmp_path):
    records, decoder = [], json.JSONDecoder()
    text = "".join(block for _, block in blocks("json", ["data.md", "README.md"]))
    while text:
        record, end = decoder.raw_decode(text)
        records.append(json.dumps(record, ensure_ascii=False))
        text = text[end:].strip()
    (tmp_path / "mine.jsonl").write_text("\n".join(records), encoding="utf-8")
    groups = list(read_records(tmp_path / "mine.jsonl"))
    assert len(groups) == 7
    assert all(isinstance(group, Group) for group in groups)
    assert groups[0].queries == {"en": "How long is the Rhine?", "de": "Wie lang ist der Rhein?"}
    assert groups[2].negatives["es"][0].text == "El Duero nace en Urbión."
    assert {x: len(passages) for x, passages in groups[5].passages.items()} == {"en": 2, "de": 1}
    assert groups[5].passages["en"][1] == ("rhine-7", "It ends in the Netherlands.")
    assert {x: len(negatives) for x, negatives in groups[5].negatives.items()} == {"en": 3, "de": 1}


def test_yaml_on_the_pages_is_a_config_or_a_search_space():
    for page, block in blocks("yaml"):
        (parse_space if "axes" in yaml.safe_load(block) else parse_experiment)(yaml.safe_load(block), page)


def test_python_on_the_pages_imports_what_there_is():
    for _, block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(importlib.import_module(str(node.module)), alias.name) for alias in node.names)


def test_a_page_that_the_package_points_to_is_there():
    """Help, messages and comments: `docs/tune.md`, and never the README, which is a short page that points on."""
    for file in sorted((ROOT / "hybrid_ir").rglob("*")):
        if file.suffix not in (".py", ".yaml", ".j2"):
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"see the README|\(README|README'?s? says", text), file
        for page in re.findall(r"docs/[\w./-]+?\.md", text):
            assert (ROOT / page).is_file(), f"{file} points to {page}"


def test_a_line_of_a_page_has_120_characters_at_most():
    """Rows of tables are as long as they are."""
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "cluster" / "README.md"]:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            assert line.startswith("|") or len(line) <= 120, f"{page.name}:{number}"
