"""What every script shares at the shell: exit codes, colours, progress, --quiet, --json, any current directory."""

import argparse
import copy
import importlib
import os
import re
import runpy
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from semg.common import cli
from semg.common.console import LONGEST_LINE, Console, one_line
from semg.common.errors import DataError, SettingError
from semg.common.stopping import stop_at_a_safe_place

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")  # Windows has neither
NO_SCRIPTS = {"model.py", "hatch_build.py"}  # the network; a hook of the build
SCRIPTS = sorted({path.name for path in ROOT.glob("*.py")} - NO_SCRIPTS)
SAY = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, SettingError

def main():
    console = cli.console(cli.parser("manual").parse_args())
    console.say("begun")
    for _ in console.progress(range(3), unit="window", mininterval=0):
        pass
    console.warn("odd")
    console.error("bad")
    console.finish("done", count=3)
    raise cli.DataError("file: expected this, found that")

cli.run(main)
"""


def on_terminal(command, **environment):
    """Run a command with a pseudo terminal as its output; returns (exit code, all it printed)."""
    own, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    output = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    output |= {"TERM": "xterm", **environment}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=output)
    os.close(theirs)
    text = b""
    while select.select([own], [], [], 120)[0]:
        try:
            if not (part := os.read(own, 4096)):
                break
        except OSError:  # the terminal is gone with the process
            break
        text += part
    os.close(own)
    return process.wait(), text.decode()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_on_a_terminal_unless_not_wanted(environment, coloured):
    code, said = on_terminal([sys.executable, "-c", SAY], **environment)
    assert code == 1
    assert ("\x1b[31merror:\x1b[0m bad" in said) == coloured
    assert ("\x1b[33mwarning:\x1b[0m odd" in said) == coloured
    assert bool(re.search(r"\x1b\[\d*m", said)) == coloured
    for output in ("begun", "bad", "odd", "done", "file: expected this, found that"):
        assert output in said


def test_progress_says_how_far_and_how_long_on_a_terminal():
    said = on_terminal([sys.executable, "-c", SAY])[1]
    assert re.search(r"3/3 \[\d\d:\d\d<\d\d:\d\d, +[\d.?]+ ?window/s\]", said), said


def test_quiet_on_a_terminal_is_the_last_line_with_warnings_and_errors():
    said = on_terminal([sys.executable, "-c", SAY, "--quiet"], NO_COLOR="1")[1]
    lines = ["warning: odd", "error: bad", "done", "error: file: expected this, found that"]
    assert said.split("\r\n")[:-1] == lines


def test_piped_there_is_neither_colour_nor_progress():
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True)
    assert done.stdout == "begun\ndone\n"
    assert done.stderr == "warning: odd\nerror: bad\nerror: file: expected this, found that\n"
    done = subprocess.run([sys.executable, "-c", SAY, "--json"], capture_output=True, text=True)
    assert done.stdout == '{"message": "done", "count": 3}\n'


def test_names_that_an_encoding_lacks_are_still_told():
    code = SAY.replace('"begun"', r'"gesti\u00f3n \udcff"')
    output = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=output)
    assert done.stdout == "gesti\\xf3n \\udcff\ndone\n", done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_manual_says_purpose_commands_cost_and_every_flag_what_it_does(script, monkeypatch, capsys):
    """With --help, from anywhere; and every script has the flags that all share."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    module = __import__(script.removesuffix(".py"))
    with pytest.raises(SystemExit) as stop:
        module.arguments().parse_args()
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert module.__doc__.strip() in shown
    assert f"python {script}" in module.__doc__, "a command to begin with"
    assert re.search(r"(?i)\b(seconds?|minutes?|hours?|\d+ s)\b", module.__doc__), "what it costs"
    for flag in ("--quiet", "--json", "--debug"):
        assert flag in shown
    for action in module.arguments()._actions:
        assert action.help, f"{action.option_strings or action.dest} says nothing of itself"


def test_defaults_are_shown_as_one_would_type_them():
    parser = cli.parser("Manual.")
    parser.add_argument("--notch", nargs="*", default=[30.0, 49.99], help="bands")
    parser.add_argument("--names", nargs="*", default=["shallow", "eegnet"], help="networks")
    parser.add_argument("--mode", nargs="?", default="", help="none unless given")
    shown = parser.format_help()
    assert "bands (default: 30 49.99)\n" in shown
    assert "networks (default: shallow eegnet)\n" in shown
    assert "none unless given\n" in shown


def test_a_path_that_no_text_can_hold_is_told_in_a_line(capsys):
    """What is not UTF-8 could be read, but neither shard.json nor a checkpoint could say of it."""
    parser = cli.parser("Manual.")
    parser.add_argument("--shards", type=Path)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--shards", "data/m\udcfcller"])
    assert stop.value.code == 2
    assert "expected names in UTF-8" in (message := capsys.readouterr().err)
    assert "data/m\\udcfcller; rename it" in message
    assert parser.parse_args(["--shards", "data/müller"]).shards == Path("data/müller")


@pytest.mark.parametrize("devices", ["", "-1"])
def test_a_gpu_that_is_hidden_is_none(monkeypatch, devices):
    monkeypatch.setattr(cli.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cli.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert not cli.has_gpu()


def test_patterns_that_a_shell_has_left(tmp_path):
    for name in ("a-1.hdf5", "a-2.hdf5", "b[1].hdf5"):
        (tmp_path / name).touch()
    given = [tmp_path / "a-*.hdf5", tmp_path / "b[1].hdf5", tmp_path / "none-*.hdf5"]
    actual = [tmp_path / "a-1.hdf5", tmp_path / "a-2.hdf5", *given[1:]]
    assert cli.expanded(given) == actual
    assert cli.expanded([Path("x.npy")]) == [Path("x.npy")]


def test_an_error_about_a_setting_names_the_flag_and_what_was_typed():
    parser = cli.parser("manual")
    parser.add_argument("--bands", type=float, nargs="+", default=[20.0, 700.0])
    parser.add_argument("--patch", type=cli.length, default="50ms")
    parser.add_argument("-b", "--batch-size", type=int, default=128)
    parser.add_argument("--no-notch", dest="notch", action="store_false")
    parser.add_argument("source", nargs="*")
    rising = SettingError("bands", "rising to {}", (60.0, 40.0), (640.0,), hint="or a smaller {batch_size}")
    patch = SettingError("patch", "at least {} where {notch} is given", 1, (2,))

    def said(error, *words):
        parser.parse_args(words)
        return cli.in_words(error)

    assert str(rising) == "bands: expected rising to 640, found 60.0 40.0; or a smaller batch_size"
    assert said(rising, "--bands", "60", "40") == ("--bands 60 40: expected rising to 640; or a smaller --batch-size")
    assert said(rising) == "--bands 20.0 700.0 (the default): expected rising to 640; or a smaller --batch-size"
    switch = SettingError("quiet", "something to be quiet about, found none")
    assert said(switch, "--quiet") == "--quiet: expected something to be quiet about, found none"
    assert said(patch, "--patch", "1", "a.csv") == "--patch 1: expected at least 2 where --no-notch is given"
    assert said(patch, "--patch=2", "--patch", "1ms") == "--patch 1ms: expected at least 2 where --no-notch is given"
    assert said(SettingError("batch_size", "even", 3), "-b", "3", "--no-notch") == "--batch-size 3: expected even"
    in_time = patch.translated(lambda samples: cli.length("1ms").say(samples, 1000))
    assert said(in_time, "--patch", "1ms") == "--patch 1ms: expected at least 2 ms where --no-notch is given"
    assert said(SettingError("classes", "at least {}", 0, (1,))) == "classes: expected at least 1, found 0"
    assert said(DataError("x.npy: expected finite numbers, found nan", "try {lr}")) == (
        "x.npy: expected finite numbers, found nan; try --lr"
    )


def test_a_flag_is_given_when_it_is_typed_be_it_with_its_default():
    parser = cli.parser("manual")
    parser.add_argument("-b", "--batch-size", type=int, default=128)
    parser.add_argument("--bands", nargs="*", default=[])
    parser.add_argument("--no-notch", dest="notch", action="store_false")
    parser.add_argument("source", nargs="*")
    for words, given in (
        (["--batch-size", "128"], "batch_size"),
        (["-b=128"], "batch_size"),
        (["x", "--no-notch"], "notch"),
        (["--bands"], "bands"),
        (["128"], ""),
    ):
        parser.parse_args(words)
        assert [name for name in ("batch_size", "notch", "bands", "source", "quiet") if cli.given(name)] == [
            *filter(None, [given])
        ]


@pytest.fixture
def stop(monkeypatch, capsys):
    """Runs a `main` that is stopped: what it raises -> (exit code, the last line on standard error)."""

    def main(raised):
        raise raised

    def run(raised, *words, **flags):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a stopped script sets its own
        try:
            with pytest.raises(SystemExit) as end:
                cli.run(lambda: main(raised), **flags)
        finally:
            signal.signal(signal.SIGTERM, before)
        return end.value.code, capsys.readouterr().err.splitlines()[-1]

    return run


def test_a_stopped_script_says_what_the_same_command_does(stop):
    assert stop(KeyboardInterrupt()) == (130, "stopped: the same command starts from the beginning")
    assert stop(cli.Terminated(), again=cli.GOES_ON) == (143, "stopped: run the same command again to go on")
    assert stop(KeyboardInterrupt("a.csv is whole"), again=cli.GOES_ON) == (130, "stopped: a.csv is whole")


def test_what_the_signal_left_half_made_adds_nothing_to_that_line(stop, monkeypatch):
    class Half:
        def __del__(self):
            raise AttributeError("made by half")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    Half()
    assert len(seen) == 1
    assert stop(KeyboardInterrupt())[0] == 130
    Half()
    assert len(seen) == 1


KEEPS_WORK = {  # what a stopped script says, if not that it starts from the beginning
    **dict.fromkeys(("download_putemg", "import_csv", "preprocess", "simulate_putemg", "sweep"), cli.GOES_ON),
    **dict.fromkeys(("baselines", "deep_baselines"), cli.GOES_ON),
    "train": "if OUT has a last.ckpt, the same command with --resume goes on",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_that_keep_finished_work_say_that_they_go_on(script, stop, monkeypatch):
    run, name = cli.run, script.removesuffix(".py")

    def stopped(_main, **flags):
        monkeypatch.setattr(cli, "run", run)
        said.append(stop(KeyboardInterrupt(), *sys.argv[1:], **flags))

    for words in ((), ("--overwrite",)):
        said = []
        monkeypatch.setattr(sys, "argv", [script, *words])
        monkeypatch.setattr(cli, "run", stopped)
        runpy.run_path(str(ROOT / script), run_name="__main__")
        expected = KEEPS_WORK.get(name, cli.STARTS_ANEW)
        if words and name in ("baselines", "deep_baselines"):  # --overwrite redoes all; elsewhere only what differs
            expected = cli.STARTS_ANEW
        assert said == [(130, f"stopped: {expected}")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stop_while_a_script_is_imported_is_a_line(script, tmp_path):
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt\n")  # imported by all, before what is slow
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(ROOT / script)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "\nstopped: nothing was begun\n")


def test_errors_survive_the_way_from_another_process():
    for error in (DataError("a: expected b", "see {lr}"), SettingError("lr", "above {}", 0, (1.5,), "or {amp}")):
        assert str(copy.copy(error)) == str(error)  # as pickle takes it apart


def test_without_a_terminal_a_line_a_minute_says_how_far_and_how_long(capsys):
    now = [0.0]
    quiet, console = (Console(quiet=quiet, clock=lambda: now[0]) for quiet in (True, False))

    def work(console):
        for _ in console.progress(range(10), unit="recording", desc="reading"):
            now[0] += 25

    work(console)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 3 of 10 recordings in 01:15, 02:55 left",
        "reading: 6 of 10 recordings in 02:30, 01:40 left",
        "reading: 9 of 10 recordings in 03:45, 00:25 left",
    ]
    console.say("a stage")  # what is said counts: nothing is repeated for a minute
    with console.progress(total=3_000_000, initial=1_000_000, unit="B", unit_scale=True) as bar:
        now[0] += 50
        bar.update(1_000_000)
        assert capsys.readouterr().err == ""
        now[0] += 50
        bar.update(500_000)
    assert capsys.readouterr().err == "2.50M of 3.00MB in 01:40, 00:33 left\n"
    with console.progress(unit="window") as bar:
        now[0] += 3600
        bar.update(2)
    assert capsys.readouterr().err == "2 windows in 1:00:00\n"
    work(quiet)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_shell_closed_are_no_error(closed, tmp_path):
    """The next file opened must not be taken for standard output."""
    code = SAY.replace(
        '    console.say("begun")\n', f'    file = open({str(tmp_path / "file")!r}, "w")\n    console.say("begun")\n'
    )
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "begun\ndone\n")
    assert ("error: file: expected this, found that" in done.stderr) == ("2>&-" not in closed)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("number", "error", "code"), [("SIGINT", KeyboardInterrupt, 130), ("SIGTERM", cli.Terminated, 143)]
)
def test_a_stop_is_asked_for_once_and_the_second_time_it_is_at_once(number, error, code):
    number = getattr(signal, number)
    before = signal.getsignal(number)
    with stop_at_a_safe_place() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert stop.exit_code == code
        with pytest.raises(error):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before
    assert type(stop.error("what now")) is error


def test_an_error_stays_one_line_that_can_be_read():
    assert one_line("a\nb\x1b[31m c") == "a b [31m c"
    actual = f"x.json: expected a name, found {list(range(50_000))}; make it anew"
    shown = one_line(actual)
    assert len(shown) == LONGEST_LINE
    assert shown.startswith(actual[:1000]) and shown.endswith("; make it anew")


@pytest.mark.skipif(sys.platform == "win32", reason="its shells quote in another way")
def test_the_next_command_is_one_that_a_shell_takes():
    """Of a folder in a cloud's drive, too: its name often has blanks."""
    words = ["evaluate.py", "--checkpoint", Path("My Drive/run 1/best_model.ckpt"), "$HOME", "it's"]
    assert shlex.split(cli.next_command(*words)) == ["next:", "python", *map(str, words)]


def test_every_next_command_is_quoted():
    scripts = [*ROOT.glob("*.py"), *(ROOT / "semg").rglob("*.py")]
    assert [path for path in scripts if "next: python" in path.read_text(encoding="utf-8")] == []


def kind(action):
    """What a flag takes: nothing, or values of which kind."""
    if action.nargs == 0:
        return "nothing"
    if action.type is None or action.choices:
        return "a word"
    return action.type.__qualname__.partition(".")[0]


OF_TWO_KINDS = {
    "--adapt",  # a recording or stream is adapted to or not; a set of sessions in several ways
    "--batch-size",  # train.py takes `auto`, too
}


def test_the_same_flag_takes_the_same_kind_of_value_everywhere():
    kinds = {}
    for script in SCRIPTS:
        parser = importlib.import_module(script.removesuffix(".py")).arguments()
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                for flag in action.option_strings:
                    kinds.setdefault(flag, {}).setdefault(kind(action), []).append(script)
    assert {flag for flag, found in kinds.items() if len(found) > 1} == OF_TWO_KINDS, kinds


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("sweep", "--split s --seed 1", "--seed: expected --seeds, which takes several"),
        ("download_putemg", "raw --workers 2", "--workers: expected --jobs"),
        ("download_putemg", "--out raw", "--out: expected OUTDIR, without a flag"),
        ("simulate_putemg", "--out raw", "--out: expected OUTDIR, without a flag"),
        ("adapt", "--checkpoint a.ckpt b.csv --out c.ckpt", "--checkpoint: expected CHECKPOINT, without a flag"),
        ("evaluate", "--repetitions 1", "--repetitions: expected calibrate.py, which takes it"),
        ("predict", "a.csv --repetitions 1", "--repetitions: expected a model of adapt.py, which takes it"),
    ],
)
def test_flags_of_other_scripts_are_refused_with_what_is_to_be_given_instead(run_here, script, words, told):
    assert f"error: {told}\n" in run_here(f"{script}.py", *words.split(), code=2).stderr
