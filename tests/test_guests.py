"""Plug-ins are guests: whatever they print, raise, change or hand over, the process is not theirs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.sweeping.plan import make_plan
from whalebench.methods import registry
from whalebench.methods.guests import guest, named, watch_guests
from whalebench.methods.registry import find_method

METHOD = """
import ctypes, os, signal, sys, time, warnings
import numpy as np, torch
from whalebench.methods.method import Epoch, Located, Method, MethodConfig

def shout(where):
    print(f"{where}: print")
    sys.stdout.write(f"{where}: write\\n")
    os.write(1, f"{where}: descriptor\\n".encode())
    ctypes.CDLL(None).puts(f"{where}: C".encode())

class Config(MethodConfig):
    "Fields."
    act: str = "none"
    "What it does."

class Plugin(Method):
    name, summary, source, Config = "plugin", "does as it is told", "nowhere", Config

    def learn(self, train, valid, harness):
        harness.fitted("all", train.known())
        self.rows = len(train.identities)
        self.harness, self.train, self.valid = harness, train, valid
        act = self.config.act
        if act == "shout":
            shout("learn")
        if act == "habits":
            os.chdir("/"); os.umask(0); torch.set_num_threads(3); warnings.simplefilter("ignore")
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if act.startswith("raise"):
            exec(act)
        if act.startswith("call"):
            eval(act[5:], globals() | {"h": harness, "valid": valid, "self": self})

    def score(self, photos):
        act = self.config.act
        if act == "shout":
            shout("score")
        if act.startswith("score"):
            return eval(act[6:], {"np": np, "torch": torch, "n": len(photos), "k": self.rows})
        return np.random.default_rng(0).random((len(photos), self.rows), np.float32)

    def embed(self, photos):
        if self.config.act.startswith("embed"):
            return eval(self.config.act[6:], {"np": np, "torch": torch, "n": len(photos)})

    def locate(self, photos):
        if self.config.act.startswith("locate"):
            return eval(self.config.act[7:], {"np": np, "Located": Located, "n": len(photos)})

    def variants(self, photos):
        if self.config.act.startswith("variants"):
            return eval(self.config.act[9:], {"np": np, "n": len(photos)})
        return {}

    def sizes(self):
        return eval(self.config.act[6:]) if self.config.act.startswith("sizes") else ((32, 32),)

    def missing_requirement(self, train, queries):
        return None if self.config.act == "missing" else ""

    def weights(self):
        return {"rows": 3} if self.config.act == "weights" else {"rows": torch.tensor(self.rows)}
"""

Install = Callable[..., None]


def install(folder: Path, source: str, *names: str, module: str = "guest_plugin") -> Path:
    """A package with that module beside what is installed, whose class Plugin is a method of these names."""
    (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{module}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    points = "".join(f"{name} = {module}:Plugin\n" for name in names)
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{points}")
    return folder


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed plug-in that does what its field `act` says."""
    monkeypatch.delitem(sys.modules, "guest_plugin", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return install(tmp_path, METHOD, "plugin")


def words(workspace: Workspace, act: str, *more: str) -> tuple[str, ...]:
    place = str(workspace.root)
    return ("run", "plugin", "--benchmark", "tiny", f"--set=act={act}", "--workspace", place, *more)


def error(answer: Any) -> str:
    """The one line that a failed run ends with."""
    assert answer.code == 1, answer
    lines = answer.err.splitlines()
    (said,) = [line for line in lines if line.startswith("Error: ")]
    assert said == lines[-1]
    assert len(said) <= 300
    assert said.isprintable()
    return said


@pytest.fixture
def ran(plugin: Path, shared_tiny: Workspace, cli: Callable[..., Any]) -> Callable[[str], Any]:
    """What `whalebench run` says of the plug-in doing this, forced."""
    return lambda act: cli(*words(shared_tiny, act, "--force"))


def test_what_a_plug_in_prints_goes_to_stderr_and_leaves_one_json_document(
    plugin: Path,
    shared_tiny: Workspace,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from whalebench.cli import main

    monkeypatch.setattr("sys.argv", ["whalebench", *words(shared_tiny, "shout", "--json", "--force")])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert not ended.value.code, err
    assert json.loads(out)["method"] == "plugin"
    for where in ("learn", "score"):
        for how in ("print", "write", "descriptor", "C"):
            assert f"{where}: {how}" in err


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("raise SystemExit(0)", "plugin gave up with SystemExit: 0"),
        ("raise KeyboardInterrupt", "plugin gave up with KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "plugin gave up with GeneratorExit: x"),
        ("raise type('Own', (BaseException,), {})('y')", "plugin gave up with Own: y"),
        ("raise ValueError('a\\x1b[31m\\r\\nb' * 99)", r"plugin failed with ValueError: a\\x1b\[31m b"),
        ("raise MemoryError", "plugin failed with MemoryError"),
    ],
)
def test_what_a_plug_in_raises_is_a_failed_run_in_one_line(
    ran: Callable[[str], Any], act: str, said: str
) -> None:
    assert re.match(f"Error: {said}", error(ran(act)))


def test_ctrl_c_while_a_plug_in_is_at_work_is_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), guest("plugin"):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_plug_in_changes_in_the_process_is_put_back(ran: Callable[[str], Any]) -> None:
    def habits() -> tuple[object, ...]:
        umask = os.umask(0o22)
        os.umask(umask)
        handler = signal.getsignal(signal.SIGTERM)
        return Path.cwd(), umask, torch.get_num_threads(), handler, list(warnings.filters)

    before = habits()
    assert ran("habits").code == 0
    assert habits() == before


CALLS = {
    "h.stage(3)": "stage() 3 (int), where a name is due",
    "h.stage('a\\x1b[2J')": "stage() 'a\\x1b[2J' (str), where a name",
    "h.scope(None).__enter__()": "scope() None (NoneType), where a name",
    "h.choose('c', 'many')": "choose() 'many' (str), where a number for 'c'",
    "h.warn(b'x')": "warn() b'x' (bytes), where a sentence",
    "h.fitted('p', None)": "fitted() None (NoneType), where photos of train",
    "h.resume({'net': 3})": "resume() 3 (int), where something with a state for 'net'",
    "h.resume([torch.nn.Linear(1, 1)])": "resume() [Linear",
    "h.epoch(None)": "epoch() None (NoneType), where an Epoch",
    "h.epoch(Epoch('1', 2, 0.0, 0.1, 3, 1.0))": "epoch() '1' (str), where for number a whole",
    "h.epoch(Epoch(1, 2.5, 0.0, 0.1, 3, 1.0))": "epoch() 2.5 (float), where for of a whole number",
    "h.epoch(Epoch(1, 2, float('nan'), 0.1, 3, 1.0))": "epoch() nan (float), where for loss a finite number",
    "h.epoch(Epoch(1, 2, torch.tensor(1.0), 0.1, 3, 1.0))": "epoch() tensor(1.) (Tensor), where for loss",
    "h.epoch(Epoch(1, 2, 0.0, None, 3, 1.0))": "epoch() None (NoneType), where for learning_rate",
    "h.epoch(Epoch(1, 2, 0.0, 0.1, -3, 1.0))": "epoch() -3 (int), where for photos",
    "h.epoch(Epoch(1, 2, 0.0, 0.1, 3, 1.0, np.zeros((1, 1))))": "valid_map_at_5() an array of float64 of",
    "h.valid_map_at_5(None)": "valid_map_at_5() None (NoneType), where an array of float32",
    "h.valid_map_at_5(np.full((len(valid), self.rows), np.nan))": "scores that are not finite",
    "h.confidence(np.zeros((len(valid), self.rows)), 'x')": "confidence() 'x' (str), where an array",
}
HANDED = {
    "score None": "plugin gave None as scores: give a NumPy array",
    "score [['1'] * k] * n": "plugin gave [['1'",
    "score torch.zeros(n, k, requires_grad=True)": "plugin gave scores that are no NumPy array",
    "score np.zeros((n, k), complex)": "plugin gave array",
    "score np.zeros((n, k + 1))": "plugin gave scores of shape",
    "score np.full((n, k), 1e300)": "plugin gave scores that are not finite",
    "embed np.zeros(3)": "plugin gave embeddings of shape (3,)",
    "embed np.full((n, 2), np.nan)": "plugin gave embeddings that are not finite",
    "embed np.zeros((n, n))": "plugin gave embeddings of shape",
    "locate 3": "plugin gave 3 by locate(): give Located",
    "locate Located(boxes=np.zeros((n, 3)))": "plugin gave boxes",
    "locate Located(masks='x')": "plugin gave masks 'x' by locate()",
    "variants 3": "plugin gave other variants",
    "variants {str(n): 3}": "plugin gave other variants",
    "sizes (3, '4')": "plugin gave (3, '4') by sizes()",
    "missing": "plugin gave None by missing_requirement()",
    "weights": "plugin gave 3 as weights 'rows': give tensors by name",
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_due_is_answered_at_the_call(ran: Callable[[str], Any], call: str) -> None:
    said = error(ran(f"call {call}"))
    assert CALLS[call] in said
    assert said.startswith("Error: plugin gave ")


@pytest.mark.parametrize("act", HANDED)
def test_what_is_handed_in_wrong_is_a_sentence(ran: Callable[[str], Any], act: str) -> None:
    assert HANDED[act] in error(ran(act))


def test_a_plug_in_that_cannot_be_imported_stops_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any], shared_tiny: Workspace
) -> None:
    monkeypatch.delitem(sys.modules, "guest_broken", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "print('hello')\nraise SystemExit(0)", "broken", "small", module="guest_broken")
    with pytest.raises(WhalebenchError, match=r"Method 'broken' cannot be loaded \(SystemExit: 0\)"):
        find_method("broken")
    listed = cli("methods", "--json")
    assert listed.code == 0
    rows = {row["name"]: row["summary"] for row in json.loads(listed.out)}
    assert "cannot be loaded" in rows["broken"]
    assert rows["arcface"] == find_method("arcface").summary
    plan = make_plan(["all"])
    assert [sentence.split()[1] for sentence in plan.left_out] == ["'broken'", "'small'"]
    assert make_plan(["softmax"]).left_out == ()
    names = {each.method for each in plan.contestants}
    assert "arcface" in names and not {"broken", "small"} & names
    config = registry.configure(find_method("softmax"), ["backbone=small"])
    assert registry.modules_of(find_method("softmax"), config) == ("whalebench.methods.softmax",)


def test_what_guests_do_is_noted_where_they_are_watched(capfd: pytest.CaptureFixture[str]) -> None:
    with watch_guests() as conduct, guest("plugin"), guest("within"):
        print("one")  # noqa: T201
        os.write(1, b"two\n")
        os.umask(os.umask(0) ^ 1)
    assert (conduct.printed, conduct.changed) == (b"one\ntwo\n", {"umask"})
    with watch_guests() as conduct, guest("plugin"):
        pass
    assert (conduct.printed, conduct.changed) == (b"", set())
    assert capfd.readouterr() == ("", "")


def is_alive(process: int) -> bool:
    """Whether there is such a process that has not ended; a zombie has."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self/stat").exists()
    return state not in "ZX"


LEAVES = """
import multiprocessing, sys, threading, time
sys.argv[0] = "whalebench"
from whalebench.methods.guests import guest
from whalebench.reports import console
def chatter():
    threading.main_thread().join()
    while True:
        print("from the plug-in", flush=True)
        time.sleep(0.1)
def command():
    with guest("plugin"):
        threading.Thread(target=chatter).start()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
    print(child.pid)
    raise SystemExit(3)
console.PATIENCE = 0.5
console.exit_with_sentence(command, debug=False)
"""


def test_what_a_plug_in_leaves_running_keeps_no_process_from_ending(tmp_path: Path) -> None:
    (tmp_path / "whalebench").write_text(LEAVES)
    with subprocess.Popen(
        [sys.executable, tmp_path / "whalebench"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.wait(120) == 3
        assert process.stdout is not None and not is_alive(int(process.stdout.read()))


def test_what_a_configuration_raises_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = "\n    def model_post_init(self, context): raise TypeError('no\\nway')\n"
    source = METHOD.replace('    "What it does."\n', f'    "What it does."{check}')
    monkeypatch.delitem(sys.modules, "guest_odd", raising=False)
    monkeypatch.syspath_prepend(str(install(tmp_path, source, "odd", module="guest_odd")))
    with pytest.raises(WhalebenchError, match=r"'plugin' cannot be set so: TypeError: no way\."):
        registry.configure(find_method("odd"), ["act=shout"])


def test_an_error_that_cannot_say_itself_is_called_by_its_kind() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no word")

    assert one_line(Unspeakable()) == ""
    assert named(Unspeakable()) == "Unspeakable"
