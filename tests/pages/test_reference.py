"""Law of the reference pages: what can be said is on the page that lists it."""

from __future__ import annotations

import argparse
import re
import typing
from dataclasses import fields

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.cli.arguments import parser
from nnsight_lab.jupyter import line
from nnsight_lab.wire import messages
from tests.architecture.house import ROOT


def page(name: str) -> str:
    """The text of one reference page."""
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", typing.get_args(messages.Message), ids=lambda kind: kind.kind)
def test_every_message_stands_in_the_wire_reference_with_its_fields(kind: type) -> None:
    message = typing.cast("type[messages.Hello]", kind)
    row = re.search(rf"^\| `{message.kind}` \| (?P<fields>[^|]*) \|", page("wire"), re.MULTILINE)

    assert row is not None
    assert re.findall(r"`(\w+)`", row["fields"]) == [field.name for field in fields(message)]


def test_the_wire_reference_names_this_version() -> None:
    assert f"version {messages.PROTOCOL} of the protocol" in page("wire")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every command and long option of a command line."""
    found = set()
    for action in parser._actions:
        found |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found |= {f"nnsight-lab {name}"} | options_of(below)
    return found - {"--help"}


def test_every_option_of_the_command_line_stands_on_its_page() -> None:
    options = options_of(parser())

    assert "--engine" in options
    assert [option for option in sorted(options) if option not in page("cli")] == []


def test_every_option_of_the_magic_stands_on_its_page() -> None:
    options = set(re.findall(r"--?[a-z][a-z-]*", line.USAGE))

    assert "--show" in options
    assert [option for option in sorted(options) if f"`{option}" not in page("magic")] == []


def test_the_text_form_on_its_page_is_what_is_printed() -> None:
    text = page("graph-text-form")
    code, printed = re.findall(r"^```(?:python|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, typing.Any] = {"lm": nl.LanguageModel("tiny"), "torch": torch}

    exec(compile(code, "<text form>", "exec"), names)

    assert str(names["tracer"].graph) == printed.rstrip("\n")
