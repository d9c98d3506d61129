"""The reference pages, made from the code when the site is built. In: the package. Out: four pages of Markdown.

MkDocs calls `on_files` (see `hooks` in mkdocs.yml). Settings come from the field docstrings of the config, commands from
the command line's own options, HTTP from the OpenAPI document, Python from what each room's `__init__.pyi` lists.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import hybrid_ir

ROOMS = ("data", "encoders", "batches", "training", "evaluation", "tuning", "index", "serving", "cluster")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site's."""
    pages = {"settings": settings_page, "commands": commands_page, "http": http_page, "python": python_page}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page()) + "\n"))
    return files


def settings_page() -> Iterator[str]:
    """Every key of a config, of a source and of a search space, with its default and its docstring."""
    from hybrid_ir.config import SOURCES, Experiment, Section
    from hybrid_ir.tuning import Range, Simplex, Space

    yield from (
        "# Settings",
        "",
        "A YAML file (`--config`), `key=value` on the command line and a search space all use these keys. "
        "`tune_configs/base.yaml` lists them with their defaults. An unknown key is refused, with the nearest known one.",
        "",
    )
    sections = {name: f for name, f in Experiment.model_fields.items() if _is_section(f.annotation, Section)}
    yield from ("## The experiment", "")
    yield from _fields({name: f for name, f in Experiment.model_fields.items() if name not in sections})
    for name, field in sections.items():
        yield from (f"## {name}", "")
        yield from _fields(field.annotation.model_fields, f"{name}.")  # type: ignore[union-attr]
    yield from ("## Sources", "", "Each entry of `prepare.sources` has a `kind`, which decides what else it takes.", "")
    for kind, source in SOURCES.items():
        yield from (f"### {kind}", "", _text(source.__doc__), "")
        yield from _fields({name: f for name, f in source.model_fields.items() if name != "kind"})
    yield from ("## Search spaces", "", "The file that `hybrid-ir tune --space` reads.", "")
    for section in (Space, Space.model_fields["asha"].annotation.__args__[0], Range, Simplex):  # type: ignore[union-attr]
        yield from (f"### {section.__name__.lower()}", "", _text(section.__doc__), "")
        yield from _fields(section.model_fields)


def commands_page() -> Iterator[str]:
    """Every command with its arguments and options."""
    from hybrid_ir.cli.app import app

    yield from ("# Commands", "", "`hybrid-ir COMMAND --help` prints the same.", "")
    yield from _command("hybrid-ir", typer.main.get_command(app))


def http_page() -> Iterator[str]:
    """Every route of the service, its fields and its answers, from the OpenAPI document."""
    from hybrid_ir.serving import openapi

    document = openapi()
    models = document["components"]["schemas"]
    yield from ("# HTTP", "", "A running service serves this at `/docs`, and the document at `/openapi.json`.", "")
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            yield from (f"## {method.upper()} {path}", "", _text(route.get("description") or route.get("summary")), "")
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                yield from (f"Body: {_type(body)}.", "")
            yield from ("| status | answer | meaning |", "|---|---|---|")
            for status, answer in route["responses"].items():
                content = next(iter(answer.get("content", {}).items()), ("", {}))
                shown = _type(content[1]["schema"]) if "schema" in content[1] else content[0]
                yield f"| {status} | {_cell(shown)} | {_cell(answer['description'])} |"
            yield ""
    yield from ("## Bodies and answers", "")
    for name, model in sorted(models.items()):
        yield from (f"### {name}", "", _text(model.get("description")), "")
        if "properties" in model:
            yield from ("| field | type | meaning |", "|---|---|---|")
            for field, schema in model["properties"].items():
                needed = (
                    "" if field in model.get("required", ()) else f" Default: `{json.dumps(schema.get('default'))}`."
                )
                yield f"| `{field}` | {_cell(_type(schema))} | {_cell(_text(schema.get('description')) + needed)} |"
            yield ""


def python_page() -> Iterator[str]:
    """The functions and classes that each room lists, for mkdocstrings to document."""
    yield from ("# Python", "", "What each room lets others import: `from hybrid_ir.ROOM import NAME`.", "")
    yield from ("::: hybrid_ir.client.SearchClient", "")
    for room in ROOMS:
        folder = Path(hybrid_ir.__file__).parent / room
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        yield from (f"## {room}", "", docstring.splitlines()[0], "")
        for node in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
            assert isinstance(node, ast.ImportFrom)
            for alias in node.names:
                if not alias.name.isupper():  # constants explain themselves where they stand
                    yield from (f"::: hybrid_ir.{room}.{node.module}.{alias.name}", "")


def _fields(fields: Any, prefix: str = "") -> Iterator[str]:
    yield from ("| key | default | meaning |", "|---|---|---|")
    for name, field in fields.items():
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            default = f"`{json.dumps(value, ensure_ascii=False, default=_json)}`"
        yield f"| `{prefix}{name}` | {_cell(default)} | {_cell(_text(field.description))} |"
    yield ""


def _json(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True)


def _command(name: str, command: Any, level: int = 2) -> Iterator[str]:
    if hasattr(command, "commands"):
        if level > 2:
            yield from (f"{'#' * level} {name}", "", _text(command.help), "")
        for word, inner in command.commands.items():
            yield from _command(f"{name} {word}", inner, level if level > 2 else 2)
        return
    words = [p.make_metavar(_context(command)) for p in command.params if p.param_type_name == "argument"]
    yield from (f"## {name}", "", _text(command.help), "", f"`{' '.join([name, '[OPTIONS]', *words])}`", "")
    yield from ("| argument or option | default | meaning |", "|---|---|---|")
    for parameter in command.params:
        spelled = parameter.make_metavar(_context(command))
        if parameter.param_type_name == "option":
            spelled = ", ".join((*parameter.opts, *parameter.secondary_opts))
        default = (
            "required" if parameter.required else "" if parameter.default in (None, ()) else f"`{parameter.default}`"
        )
        yield f"| `{_cell(spelled)}` | {_cell(default)} | {_cell(_text(getattr(parameter, 'help', '')))} |"
    yield ""


def _context(command: Any) -> Any:
    return typer.Context(command)


def _is_section(annotation: Any, section: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, section)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, with a link where it is a model of this page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("const", schema.get("type", "anything")))


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
