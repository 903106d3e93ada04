"""A saved notebook that is opened where no kernel is."""

from __future__ import annotations

import json

from playwright.sync_api import Page

from tests.support.jupyter_lab import NotebookPage

__all__ = ["opened_alone"]

_ALONE = """async path => {
    const app = window.jupyterapp;
    const kernelPreference = { shouldStart: false, canStart: false, autoStartDefault: false };
    await app.commands.execute("docmanager:open", { path, factory: "Notebook", kernelPreference });
    return app.shell.currentWidget.sessionContext.session?.kernel?.id ?? null;
}"""


def opened_alone(written: NotebookPage, *, trusted: bool) -> Page:
    """A copy of a notebook that was saved, in a page of its own where no kernel is started.

    What was run here is trusted, under any name; a notebook with another text is not.
    """
    text = written.path.read_text()
    name = f"{written.path.stem}-{'trusted' if trusted else 'not-trusted'}"
    if not trusted:
        saved = json.loads(text)
        saved["cells"][0]["source"] = "1 / 0"
        for cell in saved["cells"]:
            cell["metadata"].pop("trusted", None)
        text = json.dumps(saved)
    written.path.with_name(f"{name}.ipynb").write_text(text)
    page: Page = written.page.context.new_page()
    page.goto(written.page.url.split("/workspaces/")[0] + f"/workspaces/{name}?reset")
    page.wait_for_selector(".jp-Launcher", timeout=60_000)
    assert page.evaluate(_ALONE, f"{name}.ipynb") is None
    return page
