"""The pages that nobody writes, as a hook of MkDocs.

In: the config's classes, the commands, the OpenAPI document, the rooms' `__init__.pyi`, and the Markdown files of the
repository's root. Out: the pages of `reference/`, and README, CONTRIBUTING, CHANGELOG and cluster/README as pages.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BORROWED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cluster/README.md": "cluster.md",
}
"""Files of the repository that are pages too -> where they stand on the site."""
MODULES = tuple(
    f"hybrid_ir.{name}" for name in ("client", "types", "storage", "languages", "machine", "measure_names", "words")
)
"""What all rooms share: modules without a room."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs asks for the files of the site: ours, and those made here."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a file that is a page too, as docs/ must write it for the repository, leads to the page."""
    for source, target in BORROWED.items():
        markdown = markdown.replace(f"](../{source}", f"]({target}")
    return markdown


def generated_pages() -> dict[str, str]:
    """Path on the site -> Markdown."""
    return {
        **{target: borrowed(source) for source, target in BORROWED.items()},
        "reference/commands.md": commands_page(),
        "reference/config.md": config_page(),
        "reference/http.md": http_page(),
        **python_pages(),
    }


def borrowed(source: str) -> str:
    """A Markdown file of the repository, its links as they must be on the site."""
    text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
    for other, target in BORROWED.items():
        text = text.replace(f"]({other}", f"]({target}").replace(f"](../{other}", f"]({target}")
    return text


# Commands


def commands_page() -> str:
    """Every command with its arguments and options, from the parser itself."""
    parts = ["# Commands", "What `--help` says of each command. `KEY=VALUE` is any key of the [config](config.md)."]
    for words, command in commands():
        context = command.make_context(words, [], resilient_parsing=True)
        usage = " ".join([words, *command.collect_usage_pieces(context)])
        records = (parameter.get_help_record(context) for parameter in command.params)
        rows = [(code(written), plain(meaning)) for written, meaning in filter(None, records)]
        parts += [f"## {words}", plain(command.help), f"```text\n{usage}\n```", table(("option", "meaning"), rows)]
    return "\n\n".join(filter(None, parts))


def commands() -> Iterator[tuple[str, Any]]:
    """(`hybrid-ir index build`, its click command) for every command."""
    import typer

    from hybrid_ir.cli.app import app

    yield from leaves_of("hybrid-ir", typer.main.get_command(app))


def leaves_of(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield words, command
    else:
        for name, inner in command.commands.items():
            yield from leaves_of(f"{words} {name}", inner)


# Config


def config_page() -> str:
    """Every key of a config, a search space, a study and a plan of capacity, from the classes that check them."""
    from hybrid_ir.cluster.capacity import Constants
    from hybrid_ir.config.experiment import Experiment
    from hybrid_ir.config.recipes import RECIPES
    from hybrid_ir.config.section import Section
    from hybrid_ir.config.sources import SOURCES
    from hybrid_ir.tuning.axes import Range, Simplex
    from hybrid_ir.tuning.search_space import Asha, Space
    from hybrid_ir.tuning.studies.study import Benchmark

    def is_section(annotation: Any) -> bool:
        return isinstance(annotation, type) and issubclass(annotation, Section)

    sections = {name: f.annotation for name, f in Experiment.model_fields.items() if is_section(f.annotation)}
    parts = [
        "# Config",
        "A config is a YAML file of these keys. On the command line a key is its dotted path: `train.steps=100`. "
        "A resumed run may change the keys that say *free on resume*.",
        "## The top",
        section_table(Experiment, "", leave=sections),
    ]
    for name, section in sections.items():
        within = {key: f.annotation for key, f in section.model_fields.items() if is_section(f.annotation)}
        parts += [f"## {name}", section_table(section, f"{name}.", leave=within)]
        for key, inner in within.items():
            parts += [f"### {name}.{key}", section_table(inner, f"{name}.{key}.")]
    parts += ["## Sources", "An entry of `prepare.sources`. `kind` says which of these it is."]
    for kind, source in SOURCES.items():
        parts += [f"### {kind}", plain(source.__doc__), section_table(source, "", leave=("kind",))]
    parts += ["## Recipes", "What `--mixes` and an axis called `recipe` may name, and the keys that each sets."]
    parts += [table(("recipe", "sets"), [(code(name), changes(sets)) for name, sets in RECIPES.items()])]
    parts += ["## Search spaces", "The file of `hybrid-ir tune --space`.", section_table(Space, "")]
    for title, section in {"asha": Asha, "A range": Range, "A simplex": Simplex}.items():
        parts += [f"### {title}", plain(section.__doc__), section_table(section, "")]
    parts += ["## Benchmarks of a study", plain(Benchmark.__doc__), section_table(Benchmark, "")]
    parts += ["## Constants of a plan", "What `hybrid-ir plan-capacity` computes from; each can be given."]
    rows = [
        (code(f.name), f"{f.default:g} {f.metadata['unit']}", "measured" if f.metadata["measured"] else "assumed",
         plain(f.metadata["source"]))
        for f in fields(Constants)
    ]  # fmt: skip
    return "\n\n".join([*parts, table(("constant", "value", "", "source"), rows)])


def section_table(section: Any, prefix: str, leave: Sequence[str] | Mapping[str, Any] = ()) -> str:
    """The keys of one section: what each takes, its default, and the docstring of its field."""
    schema = section.model_json_schema()
    rows = []
    for name, found in schema["properties"].items():
        if name in leave:
            continue
        default = "required" if name in schema.get("required", ()) else code(found.get("default"))
        free = " *Free on resume.*" if found.get("on_resume") == "free" else ""
        values = "list of sources" if prefix + name == "prepare.sources" else takes(found, schema)
        default = "" if values == "list of sources" else default
        rows.append((code(prefix + name), values, default, plain(found.get("description", "")) + free))
    return table(("key", "value", "default", "meaning"), rows)


def changes(sets: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(code(f"{section}.{key}={value}") for section, keys in sets.items() for key, value in keys.items())


# HTTP


def http_page() -> str:
    """Every route with its body, its answers and an example, from the OpenAPI document."""
    from hybrid_ir.serving import openapi

    document = openapi()
    parts = [
        "# HTTP",
        f"{document['info']['description']} A running service shows this at `/docs`, and has the document itself at "
        "`/openapi.json`.",
    ]
    shapes: list[str] = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts += [f"## {method.upper()} {path}", plain(route["description"])]
            for one in route.get("parameters", ()):
                parts += [f"{code(one['name'])}: {plain(one['description'])}"]
            if body := route.get("requestBody"):
                shape = name_of(body["content"]["application/json"]["schema"])
                shapes.append(shape)
                parts += [f"Body: [{shape}](#{shape.lower()})."]
            rows = []
            for status, answer in route["responses"].items():
                (content,) = answer["content"].values()
                rows.append((status, answered_with(content["schema"], shapes), plain(answer["description"])))
            parts += [table(("status", "answer", "when"), rows)]
    parts += ["## Bodies and answers"]
    known = document["components"]["schemas"]
    for shape in reachable(shapes, known):
        schema = known[shape]
        required = schema.get("required", ())
        rows = [
            (code(name), takes(found, {"$defs": known}), "" if name in required else code(found.get("default")),
             plain(found.get("description", "")), example(found))
            for name, found in schema.get("properties", {}).items()
        ]  # fmt: skip
        parts += [f"### {shape}", plain(schema.get("description", ""))]
        parts += [table(("field", "value", "default", "meaning", "example"), rows)]
    return "\n\n".join(part for part in parts if part)


def reachable(shapes: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """These shapes and those that they hold, each once, in the order of the document's reader."""
    found: list[str] = []
    waiting = list(shapes)
    while waiting:
        shape = waiting.pop(0)
        if shape not in found:
            found.append(shape)
            waiting += re.findall(r"'#/components/schemas/(\w+)'", str(known[shape]))
    return found


def answered_with(schema: Mapping[str, Any], shapes: list[str]) -> str:
    """A link to the shape, which is added to `shapes`; a list of what it is a list of; or its JSON type."""
    if "items" in schema:
        return f"list of {answered_with(schema['items'], shapes)}"
    if "$ref" not in schema:
        return f"{schema['type']}s"
    shapes.append(shape := name_of(schema))
    return f"[{shape}](#{shape.lower()})"


def name_of(schema: Mapping[str, Any]) -> str:
    return schema["$ref"].rpartition("/")[2]


def example(schema: Mapping[str, Any]) -> str:
    return code(schema["examples"][0]) if schema.get("examples") else ""


# Python


def python_pages() -> dict[str, str]:
    """A page a room with its public names, and one of the modules that every room shares."""
    pages = {}
    for door in sorted((ROOT / "hybrid_ir").glob("*/__init__.pyi")):
        room = door.parent
        said = ast.get_docstring(tree(room / "__init__.py")) or ""
        entries = [f"::: hybrid_ir.{room.name}.{name}" for name in public_names(door)]
        # index.md would be the page of the folder.
        path = f"reference/python/{'index_' if room.name == 'index' else room.name}.md"
        pages[path] = "\n\n".join([f"# hybrid_ir.{room.name}", plain(said), *entries])
    shared = [f"::: {module}" for module in MODULES]
    return pages | {"reference/python/shared.md": "\n\n".join(["# What all rooms share", *shared])}


def public_names(door: Path) -> list[str]:
    """Functions, classes, and constants that say what they are, of those that a room's `__init__.pyi` lists."""
    names = []
    for line in tree(door).body:
        assert isinstance(line, ast.ImportFrom)
        body = tree(door.parent.joinpath(*str(line.module).split(".")).with_suffix(".py")).body
        said = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)}
        for node, after in pairwise(body):
            if isinstance(after, ast.Expr) and isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                said |= {target.id for target in targets if isinstance(target, ast.Name)}
        names += [alias.name for alias in line.names if alias.name in said]
    return names


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Markdown


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without the columns that are empty in every row."""
    kept = [n for n in range(len(head)) if any(row[n] for row in rows)]
    if not rows:
        return ""
    lines = [[head[n] for n in kept], ["---"] * len(kept), *([row[n] for n in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as YAML's reader would write it."""
    if isinstance(value, str):
        return f"`{value}`" if value else '`""'
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def plain(text: str | None) -> str:
    """A docstring as Markdown: what stands in backticks stays, the rest means no markup."""
    parts = re.split(r"(`[^`]*`)", " ".join((text or "").split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


def takes(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """What a field of a JSON schema takes, in words: `a`, `b` or null; int from 1; list of text."""
    if "$ref" in schema:
        name = name_of(schema)
        inner = whole.get("$defs", {}).get(name, {})
        return (
            f"[{name}](#{name.lower()})"
            if inner.get("type") == "object" and "properties" in inner
            else takes(inner, whole)
        )
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(takes(each, whole) for each in schema.get("anyOf") or schema["oneOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(code(value) for value in schema.get("enum", [schema.get("const")]))
    kind = {"string": "text", "integer": "int", "number": "number", "boolean": "bool", "null": "null"}
    match schema.get("type"):
        case "array":
            return f"list of {takes(schema['items'], whole)}" if schema.get("items") else "list"
        case "object":
            return "mapping"
        case None:
            return "any"
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    bounds = [
        *([f"from {low:g}"] if low is not None else []), *([f"above {above:g}"] if above is not None else []),
        *([f"to {high:,g}"] if high is not None else []), *([f"below {below:,}"] if below is not None else []),
    ]  # fmt: skip
    return " ".join([kind[schema["type"]], *bounds])
