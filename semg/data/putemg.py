"""Facts about putEMG, each stated once and with its unit, and the scheme of its recordings' names.

This module needs neither numpy nor HDF5, so that a script can use the facts without waiting for imports; the reader of
a recording is in semg/data/putemg_recording.py.

Data set: Kaczmarek, Mankowski, Tomczynski, "putEMG - A Surface Electromyography Hand Gesture Recognition Dataset",
Sensors 2019, 19(16):3548, doi 10.3390/s19163548; licence CC BY-NC 4.0.
"""

import re
from dataclasses import dataclass

from semg.common.errors import DataError

RATE = 5120.0  # Hz, nominal
RATE_TOLERANCE = 0.01  # relative; the authors' own code assumes 5120 in one place and 5124.072 Hz in another
N_CHANNELS = 24
RINGS = 3  # rings of electrodes around the forearm: channels 1-8 near the elbow, 9-16 middle, 17-24 near the wrist
RING_SIZE = 8  # electrodes per ring, 45 degrees apart; the first is over the ulna, the others follow clockwise
ADC_BITS = 12
MICROVOLTS_PER_COUNT = 5.0 / 2**12 * 1e6 / 200.0  # 5 V range, 12 bits, gain 200: 6.1 uV
EXPERIMENTS = ("emg_gestures", "emg_force")
TRAJECTORIES = ("repeats_long", "sequential", "repeats_short")  # in the order of recording
NOTCH = (30.0, 50.0, 60.0, 90.0, 150.0)  # Hz, narrow-band interference in its recordings
LABEL_COLUMNS = ("TRAJ_GT", "TRAJ_1")  # as seen on video; as prompted
REST = -1  # no gesture: relaxing between gestures, or excluded
GESTURES = {
    0: "idle",
    1: "fist",
    2: "flexion",
    3: "extension",
    6: "pinch index",
    7: "pinch middle",
    8: "pinch ring",
    9: "pinch small",
}  # 4 and 5 do not exist
REST_CLASSES = ("idle", "rest")  # no gesture is made in these; `rest` is the optional class for samples labelled -1
CHANNEL_COLUMNS = tuple(f"EMG_{number}" for number in range(1, N_CHANNELS + 1))
COLUMNS = (
    *CHANNEL_COLUMNS,
    *("TRAJ_1", "type", "subject", "trajectory", "date_time", "TRAJ_GT_NO_FILTER", "VIDEO_STAMP", "TRAJ_GT"),
)

_NAME = re.compile(
    r"(?P<experiment>emg_gestures|emg_force)-(?P<subject>\d{2})-(?P<trajectory>[a-z][a-z0-9_]{0,39})"
    r"-(?P<date>\d{4}-\d{2}-\d{2})-(?P<time>\d{2}-\d{2}-\d{2}-\d{3})",
    re.ASCII,  # otherwise \d would match digits of every script
)


@dataclass(frozen=True, order=True)
class RecordName:
    """A recording's name, split into its parts. Sorts by experiment, subject, then time of recording."""

    experiment: str
    subject: str  # two digits
    date: str  # YYYY-MM-DD
    time: str  # HH-MM-SS-mmm
    trajectory: str

    @property
    def name(self) -> str:
        """The name of the files, without an extension."""
        return f"{self.experiment}-{self.subject}-{self.trajectory}-{self.date}-{self.time}"


def parse_record(name: str) -> RecordName:
    """Split a record name into its parts. Raises DataError if it does not follow putEMG's scheme."""
    match = _NAME.fullmatch(name)
    if not match:
        raise DataError(
            f"{name!r}: expected a record name such as emg_gestures-03-sequential-2018-05-11-11-10-50-475, "
            "found another form"
        )
    return RecordName(**match.groupdict())


def is_record(name: str) -> bool:
    """Whether `name` follows putEMG's scheme."""
    return _NAME.fullmatch(name) is not None
