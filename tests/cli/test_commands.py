"""Laws of the command line: quick to ask, safe to start, and it leaves nothing running."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nnsight_lab as nl
from nnsight_lab.cli import main
from nnsight_lab.cli.child import ChildServer
from nnsight_lab.errors import ServerError, ServerUnreachable

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "nnsight_lab.cli")


@contextmanager
def started(
    *arguments: str, cwd: Path = ROOT, start_new_session: bool = False
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=start_new_session,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line_with(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of a process that matches."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        found = re.search(pattern, line)
        if found is not None:
            return found
    raise AssertionError("".join(said))


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, nnsight_lab.cli as c; c.parser(); print(*sys.modules)"
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    loaded = {name.split(".")[0] for name in asked.stdout.split()}
    assert loaded.isdisjoint({"torch", "starlette", "uvicorn", "nbclient", "nnsight_lab_server"})


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("serve", "lab", "demo", "version"))


def test_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"nnsight-lab {nl.__version__}")


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "tiny", "--port", port])

    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_an_error_of_ours_ends_a_command_with_one_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["serve", "tiny", "--host", "0.0.0.0", "--port", "0"])  # noqa: S104

    said = capsys.readouterr()
    assert status == 1
    assert "[not-supported]" in said.err
    assert "Traceback" not in said.err


def test_the_line_that_serve_prints_connects() -> None:
    with started("serve", "tiny", "--port", "0") as server:
        pasted = line_with(server, r'lab = nl\.connect\("(\S+)", token="(\S+)"\)')
        with nl.connect(pasted[1], token=pasted[2]) as lab:
            lm = lab.model("tiny")
            with lm.trace("The capital of France is"):
                logits = lm.logits.save()
        server.send_signal(signal.SIGINT)
        rest, _ = server.communicate(timeout=60)

    assert logits.shape[0] == 1
    assert server.returncode == 0
    assert "Traceback" not in rest
    assert rest.strip() == "Stopped."


def test_two_models_are_served_from_one_process() -> None:
    """Both load at the same time, in a process that has not imported transformers yet."""
    with started("serve", "tiny", "small=tiny", "--port", "0") as server:
        pasted = line_with(server, r'lab = nl\.connect\("(\S+)", token="(\S+)"\)')
        with nl.connect(pasted[1], token=pasted[2]) as lab:
            models = [lab.model(model.name) for model in lab.models()]
            found = []
            for lm in models:
                with lm.trace("The capital of France is"):
                    logits = lm.logits.save()
                found.append(logits)
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)

    assert [lm.name for lm in models] == ["tiny", "small"]
    assert bool((found[0] == found[1]).all())


def test_a_model_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    with started("serve", str(tmp_path / "no" / "model"), "--port", "0") as server:
        said, _ = server.communicate(timeout=60)

    assert server.returncode == 1
    assert "[model-not-found]" in said
    assert "Traceback" not in said


def test_a_child_server_lives_as_long_as_its_block() -> None:
    said: list[str] = []
    with ChildServer() as server:
        server.wait_ready(said.append)
        process = server._process
        with nl.connect(server.url, server.token) as lab:
            names = [model.name for model in lab.models()]

    assert names == ["tiny"]
    assert process is not None
    assert process.poll() is not None
    assert server.token not in " ".join(map(str, process.args))  # type: ignore[arg-type]
    with pytest.raises(ServerUnreachable):
        nl.connect(server.url, server.token)


def test_a_child_server_that_cannot_start_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError),
        ChildServer((str(tmp_path / "no" / "model"),)) as server,
    ):
        server.wait_ready(lambda _: None)
    assert server._process is not None
    assert server._process.poll() is not None


@pytest.mark.slow
def test_lab_starts_jupyter_beside_a_server_and_stops_both() -> None:
    with started("lab", "--no-browser", "--port", "0") as lab:
        server = line_with(lab, r"Server:\s+(\S+)")[1]
        jupyter = line_with(lab, r"^JupyterLab: (\S+)")[1]
        with urllib.request.urlopen(jupyter, timeout=60) as page:  # noqa: S310 - our own
            status, shown = page.status, page.read().decode()
        with urllib.request.urlopen(f"{server}/livez", timeout=60) as page:  # noqa: S310
            alive = page.status
        lab.send_signal(signal.SIGINT)
        lab.communicate(timeout=60)

    assert (status, alive) == (200, 200)
    assert "JupyterLab" in shown
    assert "01_quickstart.ipynb" in jupyter
    assert lab.returncode == 0
    for gone in (server, jupyter):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(gone, timeout=5)  # noqa: S310
