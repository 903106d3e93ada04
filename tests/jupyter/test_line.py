"""The line of a `%%trace`: models, prompts and options, read as they stand."""

from __future__ import annotations

import pytest

from nnsight_lab.errors import MagicUsage
from nnsight_lab.jupyter.line import parse_trace_line


@pytest.mark.parametrize(
    "text",
    [
        "it's",
        'say "hello"',
        "costs $5 {not an expression}",
        "emoji 🙂🇫🇷",
        "trailing space ",
        "  two before",
        "-s --show lens",
        "<script>alert(1)</script>",
        "ends with a backslash \\",
        "%time and !ls and ?",
    ],
)
def test_a_quoted_prompt_means_itself(text: str) -> None:
    """Whatever Python's own `repr` writes is read back as the same text, and as nothing else."""
    line = parse_trace_line(f"lm {text!r} -q")

    assert [eval(prompt) for prompt in line.prompts] == [text]
    assert (line.model, line.quiet) == ("lm", True)


def test_braces_hold_a_python_expression() -> None:
    """A dict or a set inside the braces does not end them early."""
    line = parse_trace_line("lm {prompts['a'][0]} { {'x': 1}['x'] } -s h")

    assert line.prompts == ("prompts['a'][0]", "{'x': 1}['x']")
    assert line.save == ("h",)


def test_every_option_is_read() -> None:
    line = parse_trace_line('model "p" -s h,logits --on lab --graph --as clean --show lens -q')

    assert line.model == "model"
    assert line.save == ("h", "logits")
    assert (line.on, line.name, line.show) == ("lab", "clean", ("lens",))
    assert (line.graph, line.quiet) == (True, True)


def test_an_option_may_be_joined_to_its_value() -> None:
    assert parse_trace_line('"p" --save=a,b --show=none').save == ("a", "b")
    assert parse_trace_line('"p" --show=none').show == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('lm "unclosed', "not closed"),
        ("lm {unclosed", "no Python expression"),
        ('lm "p" --shw lens', "--shw"),
        ('lm "p" --show fireworks', "fireworks"),
        ('lm "p" -s', "needs a value"),
        ('lm "p" --as 3x', "not a name"),
        ("lm The capital of France", "One model"),
    ],
)
def test_a_line_that_cannot_be_read_says_what_and_how(line: str, says: str) -> None:
    with pytest.raises(MagicUsage, match=says) as caught:
        parse_trace_line(line)

    assert caught.value.hint


def test_a_misspelt_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(MagicUsage) as caught:
        parse_trace_line('"p" --grph')

    assert "--graph" in caught.value.hint
