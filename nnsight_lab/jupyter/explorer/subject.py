"""What an explorer looks at: a prompt on a model, with the edits of a run or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnsight_lab.contract import TokenRows
from nnsight_lab.ir import Graph, Skip, Write
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.prompt import model_of, prompt_of, tokens_of, word

__all__ = ["Autoencoder", "Subject"]


@dataclass(frozen=True)
class Autoencoder:
    """A user's sparse autoencoder. layer: whose output it reads. name: what it is called, for code."""

    module: Any
    layer: int
    name: str = "sae"


class Subject:
    """One row of a prompt, and how to run graphs on it.

    source: the model or the run. given: the token rows; `row` is the one looked at.
    tokens, ids: that row. name, run_name: how the model and the run are called in the notebook,
    for code.
    sae: a sparse autoencoder and the layer whose output it reads, where one is given.
    """

    def __init__(
        self,
        source: LanguageModel | Run,
        prompt: Any = None,
        *,
        row: int = 0,
        name: str = "lm",
        sae: Autoencoder | None = None,
        run_name: str = "run",
    ) -> None:
        self.source = source
        self.model = model_of(source)
        self.given: TokenRows = prompt_of(source, prompt, row)
        self.prompt = source.prompt if isinstance(source, Run) else prompt
        self.row = row % self.given.batch
        self.ids = list(self.given.rows[self.row])
        self.tokens = tokens_of(self.model, self.given, self.row)
        self.name = name
        self.sae = sae
        self.run_name = run_name

    @property
    def layers(self) -> int:
        """How many blocks there are."""
        return self.model.card.layers

    @property
    def edited(self) -> bool:
        """Whether what is looked at is a run that changed something."""
        if not isinstance(self.source, Run):
            return False
        nodes = self.source.graph.nodes
        return any(isinstance(node, Write | Skip) for node in nodes)

    def run(self, graph: Graph) -> Run:
        """Run a graph on the prompt, after the edits of the run that is looked at."""
        if isinstance(self.source, Run):
            return self.source.then(graph)
        return self.model.run(graph, self.given)

    def word(self, id: int) -> str:
        """One token as text."""
        return word(self.model, id)

    @property
    def explored(self) -> str:
        """Python that makes an explorer of this once more."""
        options = [f"row={self.row}"] if self.given.batch > 1 else []
        if self.sae is not None:
            options += [f"sae={self.sae.name}", f"layer={self.sae.layer}"]
        if not isinstance(self.source, Run):
            return f"nl.explore({', '.join([self.name, self._written, *options])})"
        if self.sae is not None:
            return f"nl.explore({', '.join([self.run_name, *options])})"
        return f"{self.run_name}.explore({', '.join(options)})"

    @property
    def said(self) -> str:
        """The prompt as a `%%trace` line takes it: a literal, or an expression in braces.

        Of a batch all rows, since each is padded to the longest.
        """
        return self._written if self._one_text else "{" + self._written + "}"

    @property
    def _one_text(self) -> bool:
        return isinstance(self.prompt, str) and self.given.batch == 1

    @property
    def _written(self) -> str:
        """The prompt in Python: its texts, or the ids where it was no text."""
        if self._one_text:
            return _quoted(self.prompt)
        texts = list(self.prompt) if isinstance(self.prompt, list | tuple) else []
        are_texts = bool(texts) and all(isinstance(text, str) for text in texts)
        if are_texts and self.model.tokenize(texts).rows == self.given.rows:
            return repr(texts)
        return repr([list(row) for row in self.given.rows])


def _quoted(text: str) -> str:
    """A string literal in double quotes, on one line."""
    inside = repr("'" + text)[2:-1]  # with a ' inside, repr chooses double quotes where it can
    if repr("'" + text)[0] == '"':
        return f'"{inside}"'
    return repr(text)
