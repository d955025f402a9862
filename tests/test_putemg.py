"""putEMG's facts and record names."""

import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from semg.common.errors import DataError
from semg.data import putemg

NAME = "emg_gestures-03-repeats_long-2018-05-11-11-05-00-695"


def test_facts() -> None:
    assert pytest.approx(6.1, abs=0.01) == putemg.MICROVOLTS_PER_COUNT
    assert len(putemg.GESTURES) == 8
    assert not {4, 5, putemg.REST} & set(putemg.GESTURES)
    assert len(putemg.CHANNEL_COLUMNS) == putemg.RINGS * putemg.RING_SIZE == putemg.N_CHANNELS == 24
    assert len(putemg.COLUMNS) == len(set(putemg.COLUMNS)) == 32
    assert set(putemg.LABEL_COLUMNS) < set(putemg.COLUMNS)


def test_a_name_is_taken_apart_and_put_together() -> None:
    record = putemg.parse_record(NAME)
    assert (record.subject, record.trajectory, record.date) == ("03", "repeats_long", "2018-05-11")
    assert record.name == NAME


def test_names_sort_by_person_and_time_not_by_trajectory() -> None:
    names = [
        "emg_gestures-04-repeats_long-2018-01-01-00-00-00-000",
        "emg_gestures-03-repeats_short-2018-05-11-11-15-21-403",
        "emg_gestures-03-sequential-2018-05-11-11-10-50-475",
        "emg_gestures-03-repeats_long-2018-06-14-12-32-53-659",
    ]
    ordered = [record.name for record in sorted(putemg.parse_record(name) for name in names)]
    assert ordered == [names[2], names[1], names[3], names[0]]


@pytest.mark.parametrize(
    "name",
    [
        "",
        f"../{NAME}",
        f"/{NAME}",
        f"{NAME}\n",
        f" {NAME}",
        f"{NAME}.hdf5",
        f"{NAME}\x00",
        NAME.replace("-03-", "-3-"),
        NAME.replace("-03-", "-٠٣-"),  # Arabic digits
        NAME.replace("repeats_long", ".."),
        NAME.replace("repeats_long", "a/b"),
        NAME.replace("repeats_long", "x" * 41),
        NAME.replace("emg_gestures", "emg_other"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    assert not putemg.is_record(name)
    with pytest.raises(DataError, match="expected a record name such as"):
        putemg.parse_record(name)


@st.composite
def near_names(draw: st.DrawFn) -> str:
    """A right name with a few characters put in or replaced."""
    name = list(NAME)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(name)))
        name[place : place + draw(st.integers(0, 1))] = draw(st.text("0123456789-_./\\ \n\x00éa", max_size=2))
    return "".join(name)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | near_names())
def test_whatever_is_taken_for_a_name_is_safe_as_a_file_name(text: str) -> None:
    if putemg.is_record(text):
        assert putemg.parse_record(text).name == text
        assert text.isascii()
        assert not set(text) & set("/\\.:\x00\n ")


def test_knowing_the_facts_needs_neither_numpy_nor_hdf5() -> None:
    code = (
        "import sys, semg.data.putemg, semg.common.cli; print({'numpy', 'h5py', 'pandas', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
