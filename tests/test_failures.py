"""What is said about many inputs: one line for many of a kind."""

from pathlib import Path

from semg.common.console import Console
from semg.common.failures import Failures, Repeated, Warnings


def told(capsys, *warnings: tuple[str, str]) -> list[str]:
    warned = Warnings(Console(), "recording", "a list has all")
    for name, words in warnings:
        warned.add(name, words)
    assert capsys.readouterr().err == "", "nothing before it is known how many there are"
    warned.tell()
    return [line.removeprefix("warning: ") for line in capsys.readouterr().err.splitlines()]


def test_a_single_warning_is_a_line_of_its_own(capsys):
    assert told(capsys, ("a.csv", "no signal")) == ["a.csv: no signal"]


def test_warnings_of_a_kind_are_one_line_with_the_first_inputs(capsys):
    lines = told(capsys, *((f"p{n}", "no signal") for n in range(1, 501)), ("q", "too much of it"))
    several = "the same in 499 more recordings: p2, p3, p4, ...; a list has all"
    assert lines == [f"p1: no signal ({several})", "q: too much of it"]


def test_all_inputs_are_named_where_they_are_few(capsys):
    assert told(capsys, *((f"p{n}", "no signal") for n in (1, 2, 3))) == [
        "p1: no signal (the same in 2 more recordings: p2, p3)"
    ]


def test_other_numbers_of_a_kind_are_said_to_be_other(capsys):
    gaps = ["0.5 s in 1 gap, at 9.2 s", "0.25 s in 2 gaps, at 1, 7.5 s", "2 s in 9 gaps, at 3, 4, 5, ... s"]
    lines = told(capsys, *((f"p{n}", f"lost samples: {words}") for n, words in enumerate(gaps, 1)))
    assert lines == [f"p1: lost samples: {gaps[0]} (with other numbers in 2 more recordings: p2, p3)"]


def test_other_words_are_another_kind(capsys):
    assert len(told(capsys, ("p1", "dead channels ch1"), ("p2", "equal channels ch1=ch2"))) == 2


def test_a_warning_is_told_once_and_kept(capsys):
    warned = Warnings(Console(), "recording", "a list has all")
    for part in (("p1", "no signal"), ("p2", "no signal")), (("p3", "no signal"),):
        for one in part:
            warned.add(*one)
        warned.tell()
    assert capsys.readouterr().err.count("no signal") == 2
    assert warned.all == ["p1: no signal", "p2: no signal", "p3: no signal"]


def test_failures_of_a_kind_are_counted_after_the_first(capsys):
    failures = Failures(Console(), "recording")
    for n in range(1, 7):
        failures.failed(Path(f"p{n}.csv"), f"p{n}.csv: expected 8 channels, found {n}")
    failures.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[2:] == [
        "error: p3.csv: expected 8 channels, found 3",
        "error: 3 more recordings: expected 8 channels, found 6",
    ]


def test_messages_of_a_kind_are_told_as_they_come_then_counted_and_another_round_begins_anew(capsys):
    told = []
    messages = Repeated(told.append, "recording")
    for _ in range(2):
        for n in range(1, 6):
            messages.add(f"p{n}", f"p{n}: lost samples: {n} gaps")
        assert told == [f"p{n}: lost samples: {n} gaps" for n in (1, 2, 3)]
        messages.close()
        assert told.pop() == "2 more recordings: lost samples: 5 gaps"
        told.clear()
    assert messages.count == 10
    assert capsys.readouterr().err == ""
