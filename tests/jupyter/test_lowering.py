"""`if`, `for`, `while` and comprehensions on recorded values, in real cells.

LONG takes the first branch of every test, SHORT the other one; the oracle is the same Python on
the plain model's own tensors.
"""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.jupyter.lowering import lower
from tests.support.hooks import hooked, outputs_seen

LONG = "When Mary and John went to the store"
SHORT = "The capital of France is"
PROMPTS = pytest.mark.parametrize("prompt", [LONG, SHORT])


def trace(notebook: Any, prompt: str, body: str) -> dict[str, Any]:
    """Run a cell that must not fail; the notebook's variables."""
    notebook.ran(f'%%trace lm "{prompt}" -q\n{body}')
    found: dict[str, Any] = notebook.names
    return found


def fails(notebook: Any, body: str) -> tuple[Any, str]:
    """Run a cell that must fail, without peeks; its error, and what the notebook shows."""
    cell = notebook.cell(f'%%trace lm "{SHORT}" -q --no-peek\n{body}')
    assert cell.error is not None, "the cell must fail"
    return cell.error, cell.text


def first(lm: nl.LanguageModel, prompt: str) -> torch.Tensor:
    """What the first block of the plain model returns."""
    path, rows = "model.layers.0", lm.tokenize(prompt).rows
    found: torch.Tensor = outputs_seen(lm.module, [list(row) for row in rows], path)[path]
    return found


def both(body: str, h: torch.Tensor) -> dict[str, Any]:
    """The same code as plain Python on plain tensors."""
    names: dict[str, Any] = {"h": h, "torch": torch}
    exec(body, names)
    return names


def same(notebook: Any, lm: nl.LanguageModel, prompt: str, body: str, *names: str) -> None:
    """A cell gives what plain Python gives."""
    notebook.names["torch"] = torch
    found = trace(notebook, prompt, f"h = lm.layers[0].output\n{body}")
    expected = both(body, first(lm, prompt))
    for name in names:
        one, other = found[name], expected[name]
        if isinstance(one, tuple | list):
            one, other = torch.stack(list(one)), torch.stack(list(other))
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), msg=name)


@PROMPTS
def test_if_elif_else_choose_values_and_numbers(
    notebook: Any, tiny: nl.LanguageModel, prompt: str
) -> None:
    body = """
kept = "same"
if h.norm() > 1e6:
    y, scale = h, 1.0
elif h.norm() > 100:
    y = h * 2
    scale = 2.0
    only_here = y + 1
else:
    y, scale = h - 1, 3.0
z = y * scale
"""
    same(notebook, tiny, prompt, body, "y", "scale", "z")
    assert notebook.names["kept"] == "same"
    assert "only_here" not in notebook.names, "it is not known whether it would be defined"
    notebook.names["only_here"] = "of an earlier cell"
    same(notebook, tiny, prompt, body, "y", "z")


@PROMPTS
def test_an_edit_in_a_branch_reaches_the_model_if_it_is_taken(
    notebook: Any, tiny: nl.LanguageModel, prompt: str
) -> None:
    body = """
h = lm.layers[0].output
for layer in [1, 2]:
    if h.norm() > 100 and layer == 2:
        lm.layers[layer].output[:, -1] = 0
logits = lm.logits
"""
    ids = [list(row) for row in tiny.tokenize(prompt).rows]

    def zero(value: torch.Tensor) -> torch.Tensor:
        changed = value.clone()
        changed[:, -1] = 0
        return changed

    clean = hooked(tiny.module, ids)["logits"]
    edited = hooked(tiny.module, ids, after={"model.layers.2": zero})["logits"]
    logits = trace(notebook, prompt, body)["logits"]
    torch.testing.assert_close(logits, edited if prompt == LONG else clean)
    assert not torch.allclose(edited, clean)


@PROMPTS
def test_expressions_choose_as_python_does(
    notebook: Any, tiny: nl.LanguageModel, prompt: str
) -> None:
    body = """
n = h.norm()
a = h[0, 0] if n > 100 else h[0, 1]
b = n > 100 and h.sum() > 1e9
c = n > 100 or h.sum() > 1e9
d = not n > 100
e = 50 < n < 100
f = 1 < 2 < 3 and not []
g = [x * 2 if x.sum() > 0 else x for x in h[0]]
"""
    same(notebook, tiny, prompt, body, *"abcde", "g")
    assert notebook.names["f"] is True


@PROMPTS
def test_a_for_over_an_unknown_length_carries_what_it_changes(
    notebook: Any, tiny: nl.LanguageModel, prompt: str
) -> None:
    body = """
total = 0
last = h[0, 0]
count = 0
y = h.clone()
for at in (h[0, :, 0] > 0).nonzero()[:, 0]:
    row = h[0, at]
    total += row.sum()
    if row.norm() > 30:
        last = row
        count += 1
    y[0, at] = 0
else:
    done = True
rows = [h[0, at] * 2 for at in (h[0, :, 0] > 0).nonzero()[:, 0]]
"""
    same(notebook, tiny, prompt, body, "total", "last", "count", "y", "rows")
    assert notebook.names["done"] is True
    assert "row" not in notebook.names, "there may be no turn that defines it"


@PROMPTS
def test_a_while_on_a_recorded_test_loops_in_the_graph(
    notebook: Any, tiny: nl.LanguageModel, prompt: str
) -> None:
    body = """
x, turns = h, 0
while x.norm() > 1:
    x = x / 2
    turns += 1
else:
    ended = 1
"""
    same(notebook, tiny, prompt, body, "x", "turns", "ended")
    assert "while" in str(notebook.names["run"].graph)


PLAIN = """
seen, texts = [], {}
for k, (name, size) in enumerate([("a", 1), ("b", 2), ("c", 3)]):
    if k == 1:
        continue
    seen.append(name if size > 1 else name.upper())
    texts[name] = [i for i in range(size) if i or not k]
else:
    seen.append("end")
n = 0
while n < 10:
    n += 3
    if n > 5:
        break
m = 0
while not m >= 4:
    m += 1
    if m == 2: continue
    seen.append(m)
else:
    seen.append("out")
pairs = [(i, j) for i in range(2) for j in "xy" if i or j == "x"]
sets, dicts = {i % 2 for i in range(4)}, {i: i for i in range(2)}
total = sum(i for i in range(4) if i > 1 or i < 1)
q = [3, 4]
found = [w for w in q if (last := w)]
if (r := 5) > 3: s: int = r
class Own:
    v = 1 if True else 2
def own(a, b=1 or 2):
    return a and b
u = own(0), own(3), (lambda t: t or 9)(0)
empty = "" or 0 or []
mark = object()
kept = mark and mark
it = iter([1, 2, 3])
rest = [x for x in it]
try:
    for x in 5: pass
except TypeError as exc:
    why = str(exc)
"""


def test_plain_code_is_plain_python_exactly(notebook: Any) -> None:
    names = "seen texts n m pairs sets dicts total found q last r s u empty rest why".split()
    found = trace(notebook, SHORT, PLAIN)
    expected = both(PLAIN, torch.zeros(1))

    for name in names:
        assert found[name] == expected[name], name
    assert found["kept"] is found["mark"]
    assert not [name for name in found if not name.isidentifier()]


def test_lowering_keeps_every_line_number() -> None:
    """Nodes that are there already stay as they are; new ones begin where the old ones did."""
    before = {type(n): n.lineno for n in ast.walk(ast.parse(PLAIN)) if isinstance(n, ast.Call)}
    after = ast.walk(lower(ast.parse(PLAIN)))
    lines = {n.lineno for n in after if isinstance(n, ast.expr | ast.stmt)}
    assert lines <= set(range(1, PLAIN.count("\n") + 1))
    assert before


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('label = "big" if h.norm() > 1e-9 else None', "big"),
        ("for label in range(9):\n    if h.norm() > -label:\n        break", 0),
        ("label = len({int(r[2]): 1 for r in (h.abs() > -1).nonzero()[:5]})", 5),
    ],
)
def test_what_a_graph_cannot_say_is_decided_by_peeks(
    notebook: Any, body: str, expected: object
) -> None:
    found = trace(notebook, SHORT, f"h = lm.layers[0].output\n{body}")

    assert found["label"] == expected


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ('if h.norm() > 1:\n    label = "a"\nelse:\n    label = "b"', 3, "label would be 'a' and"),
        ("xs = []\nif h.norm() > 1:\n    y = 1\n    xs.append(h)", 4, "xs is changed in place"),
        ("xs = []\nfor r in (h > 0).nonzero():\n    xs.append(r)", 4, "xs is changed in place"),
        ("if (h >\n    1):\n    y = h", 3, "a single value"),
        ("y = 1\ny = h if (\n  h > 0) else 1", 4, "a single value"),
        ("y = 1\nb = h and 1", 4, "a single value"),
        ("s = 'a'\nfor r in (h > 0).nonzero():\n    s = (r, s)", 4, "s changes from turn"),
        ("x = h\n\nwhile x.norm() > 1:\n    x = x * 2", 5, "after 1000 turns"),
        ("if h.norm() > 1:\n    y = 1\n    y = h.reshape(7, 3)", 5, "cannot take"),
        ("for r in (h > 0).nonzero():\n    y = h[:, 1] @ h", 4, "cannot take"),
        ("for i in range(3):\n    if h.norm() > i:\n        break", 4, "A condition"),
        ("d = {r: 1 for r in (h > 0).nonzero()}", 3, "depends on what the model"),
        ("if h.norm() > 1:\n    t = h * 2\n    y = 1\nz = [t]\nz[0] + 1", 6, "'t' is not defined"),
        ("if h.norm() > 1:\n    h.save()", 4, "saved inside"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(
    notebook: Any, body: str, line: int, words: str
) -> None:
    error, shown = fails(notebook, f"h = lm.layers[0].output\n{body}")

    assert words in str(error)
    lines = [part for part in shown.splitlines() if part.startswith("---->")]
    if isinstance(error, nl.errors.LabError):
        assert error.where is not None
        assert error.where.line == line
        assert error.hint
    assert not lines or lines[0].startswith(f"----> {line} ")
    assert shown.count("/nnsight_lab/") <= 1
    assert "the flow of this cell" not in shown


@pytest.mark.parametrize(
    "body",
    [
        "if h.norm() > 1:\n    a = 1\n    b = a + missing",
        "for r in (h > 0).nonzero():\n    a = 1\n    b = a + missing",
        "while h.norm() > 1:\n    a = 1\n    b = a + missing",
        "for i in range(2):\n    a = 1\n    b = a + missing",
        "a = 1\nc = 2\nb = missing if h.norm() > 1 else 0",
        "a = 1\nc = 2\nb = [missing for r in (h > 0).nonzero()]",
    ],
)
def test_a_mistake_of_the_users_own_shows_only_their_line(notebook: Any, body: str) -> None:
    error, shown = fails(notebook, f"h = lm.layers[0].output\n{body}")

    assert isinstance(error, NameError)
    assert "----> 5 " in shown
    frames = 1 + ("in <listcomp>" in shown)  # which older Pythons show as well
    assert shown.count("---->") == frames
    assert "nnsight_lab" not in shown


def test_a_failed_branch_leaves_earlier_variables_as_they_were(notebook: Any) -> None:
    notebook.names.update(y=1, xs=[1])
    fails(notebook, "h = lm.logits\nif h.sum() > 0:\n    y = h\n    xs.append(2)\nelse: y = [h]")

    assert notebook.names["y"] == 1
    assert "h" not in notebook.names
