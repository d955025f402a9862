"""The list of recordings: the order of a person's recordings by their dates, or one line that says what is missing."""

from pathlib import Path

import pytest

from semg.common.errors import DataError
from semg.data.recording_list import read_list


def written(folder: Path, *dates: str, session: str = "") -> Path:
    """A list of one person's recordings, r1.csv and so on, of these dates."""
    path = folder / "recordings.csv"
    rows = [f'r{place}.csv,7,{session},"{date}"' for place, date in enumerate(dates, 1)]
    path.write_text("\n".join(["file,subject,session,date", *rows]))
    return path


def in_time(path: Path) -> list[str]:
    return [one.facts.name for one in sorted(read_list(path), key=lambda one: one.facts.order)]


def test_a_file_may_be_called_like_a_number_with_a_fraction(tmp_path):
    """People and sessions lose the fraction that spreadsheets write; a file's name is its name."""
    path = tmp_path / "recordings.csv"
    path.write_text("file,subject,session\n1.0,7.0,2.0\n2.00,7,2\n")
    entries = read_list(path)
    assert [one.path.name for one in entries] == ["1.0", "2.00"]
    assert {(one.facts.subject, one.facts.session) for one in entries} == {("7", "2")}


@pytest.mark.parametrize(
    "dates",
    [
        ("2024-03-02", "2024-03-01"),
        ("2024-03-01T10:30", "2024-03-01T10:05"),
        ("2024-03-01T10:30", "2024-03-01"),  # the day's beginning
        ("2024-03-01T10:00:00+02:00", "2024-03-01T09:30:00+02:00"),
        ("2024-03-01T09:00:00+01:00", "2024-03-01T09:30:00+02:00"),
        ("2024-03-01T09:00:00Z", "2024-03-01T10:30:00+02:00"),
        ("2024-03-01T09:00:00Z", "2024-03-01T04:30:00-03:00"),
        ("2024-03-01 09:00:00 UTC", "2024-03-01 10:30:00 +0200"),
        ("2024-03-01 09:00 GMT", "20240301T103000+02"),
        ("2024-03-01T09:00:00+01:00[Europe/Paris]", "2024-03-01T07:30Z"),
        ("2024-10-27T02:10+01:00", "2024-10-27T02:40+02:00"),  # the hour that comes twice
    ],
)
def test_recordings_are_in_the_order_of_the_moments_whatever_their_zones(tmp_path, dates):
    assert in_time(written(tmp_path, *dates, session="1")) == ["r2", "r1"]


@pytest.mark.parametrize("zone", ["CET", "Europe/Berlin", "MST"])
def test_a_zone_by_its_name_is_refused_with_what_would_do(tmp_path, zone):
    told = rf"csv:3: expected a zone by its numbers, such as \+01:00 or Z, found '2024-03-02T10:00 {zone}'"
    with pytest.raises(DataError, match=told):
        read_list(written(tmp_path, "2024-03-01T10:00+01:00", f"2024-03-02T10:00 {zone}"))


@pytest.mark.parametrize("date", ["01.03.2024", "03/01/2024", "1709280000", "yesterday", "2024-03-01 noon"])
def test_another_notation_is_refused_with_its_line(tmp_path, date):
    with pytest.raises(DataError, match=rf"csv:3: expected a date such as 2024-03-01 .*, found '{date}'"):
        read_list(written(tmp_path, "2024-03-01", date))


@pytest.mark.parametrize(
    ("dates", "told"),
    [
        (("2024-03-01T10:00+01:00", "2024-03-02T10:00"), "a zone in all of subject 7's dates or in none"),
        (("2024-03-01T10:00Z", "2024-03-02"), "a zone in all of subject 7's dates or in none"),
    ],
)
def test_dates_that_tell_no_order_are_refused(tmp_path, dates, told):
    first, second = dates
    with pytest.raises(DataError, match=f"csv: expected {told}, found {first} and {second}".replace("+", r"\+")):
        read_list(written(tmp_path, *dates))


def test_days_and_times_of_other_days_are_in_order(tmp_path):
    assert in_time(written(tmp_path, "2024-03-03", "2024-03-02T10:00", "20240301")) == ["r3", "r2", "r1"]


def test_a_session_is_the_day_where_it_was_recorded(tmp_path):
    dates = "2024-03-01T23:30-05:00", "2024-03-01T08:00-05:00", "2024-07-01T08:00-04:00"
    sessions = [one.facts.session for one in read_list(written(tmp_path, *dates))]
    assert sessions == ["2024-03-01", "2024-03-01", "2024-07-01"]


def test_days_of_two_zones_near_each_other_tell_no_sessions(tmp_path):
    dates = "2024-03-01T23:30Z", "2024-03-02T00:45+01:00"
    told = "expected a session for subject 7's recordings of 2024-03-01T23:30Z and 2024-03-02T00:45"
    with pytest.raises(DataError, match=told):
        read_list(written(tmp_path, *dates))
    assert [one.facts.session for one in read_list(written(tmp_path, *dates, session="1"))] == ["1", "1"]


def test_a_path_too_long_for_a_name_is_said_to_be(tmp_path):
    """It was said that p1.csv could not be a folder's name."""
    path = tmp_path / "recordings.csv"
    path.write_text(f"file,subject\n{'laboratory/' * 20}p1.csv,7\n")
    with pytest.raises(
        DataError, match=r"csv:2: expected a path of at most 200 bytes, .* found 222; put the list into"
    ):
        read_list(path)
