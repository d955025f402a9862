"""Simulated forearm sEMG in putEMG's counts and labels: for demonstrations and tests, not a substitute for people.

From the brain outwards; each step follows the model named:
  - a person is prompted to make a gesture, reacts, moves, holds, lets go (`schedule`);
  - a gesture is a pattern of muscle activations, individual to each person and never twice the same (`activations`);
  - a muscle is a pool of motor units, recruited from small to large, which fire faster the more the muscle is driven
    (`pool`, `spikes`; Fuglevand, Winter, Patla, J Neurophysiol 1993, 70(6):2470);
  - a motor unit's action potential travels along its fibres as a current tripole under the rings of electrodes,
    wider and weaker the farther away it is (`potential`; Rosenfalck 1969; Merletti et al., IEEE Trans Biomed
    Eng 1999, 46(7):810);
  - electrodes are placed slightly differently each day, and pick up mains, drift and noise (`_interference`);
  - the converter rounds to whole counts of 12 bits.

Not modelled: fatigue, ends of fibres, movement artefacts, faulty electrodes, bones, arm posture.

Every random number comes from a stream named by (seed, subject), (seed, subject, day) or (seed, subject, day,
trajectory), so that a recording does not depend on which others are made.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, sparse

from semg.data.putemg import ADC_BITS, GESTURES, N_CHANNELS, RATE, REST, RING_SIZE, RINGS, TRAJECTORIES

VERSION = 1  # increase it when the same seed gives different counts
SHORTEST = 20.0  # seconds of recording in which every gesture is held long enough for windows

# Times in seconds. `_SLOT` is the shortest time of a repetition together with the idle time before it, except in
# recordings too short for one such repetition of every gesture, where it is shorter.
_SLOT = {"repeats_long": 4.2, "sequential": 4.0, "repeats_short": 2.7}
_LEAD = 0.6  # idle before the first slot
_HOLD_SHARE = 0.4  # of a slot
_HOLD_MOST = {"repeats_long": 4.0, "sequential": 3.0, "repeats_short": 1.5}
_REACTION = (0.2, 0.35)  # prompt to movement
_MOVE = (0.2, 0.32)  # from rest to the gesture, and back

_CONTROL_STEP = 32  # samples between two values of a muscle's activation: 160 Hz
_UNITS = 32  # motor units of a muscle; a real one has hundreds
_SIZES = 12.0  # potential of the largest unit relative to that of the smallest
_THRESHOLDS = (0.02, 0.6)  # activation at which the first and the last unit of a pool begins to fire
_FIRING = (8.0, 30.0)  # Hz, at recruitment and at most
_FIRING_GAIN = 40.0  # Hz per unit of activation above the threshold
_FIRING_SPREAD = 0.2  # standard deviation of an interval between spikes, relative to its mean

_VELOCITY = 4.0  # mm per ms, of an action potential along its fibre
_RING_PLACES = np.array([0.0, 35.0, 70.0])  # mm along the arm, elbow to wrist
_RING_RADII = np.array([44.0, 40.0, 34.0])  # mm
_DISTANCES = np.array([7.0, 14.0, 28.0, 56.0])  # mm, at which the potential's shape is computed
_DECAY = 1.5  # exponent of the distance by which a potential weakens
_POLES = ((0.0, 24.6), (-2.1, -35.4), (-6.9, 10.8))  # the tripole: (mm, current), no net charge and no dipole
_POTENTIAL_SECONDS = 0.05
_COUNTS = 9.0  # peak, in ADC counts, of the smallest unit's potential at 10 mm in an average person

# Muscles: angle clockwise from the ulna as the electrodes are numbered (degrees), depth under the fat (mm),
# width (degrees), centre along the arm (mm from the ring near the elbow) and half length (mm).
_MUSCLES = {
    "flexor carpi ulnaris": (40, 7, 9, 10, 45),
    "flexor digitorum, small": (68, 12, 7, 35, 40),
    "flexor digitorum, ring": (84, 10, 7, 20, 40),
    "flexor digitorum, middle": (100, 9, 7, 15, 40),
    "flexor digitorum, index": (122, 12, 7, 50, 35),
    "palmaris longus": (106, 5, 5, 5, 35),
    "flexor carpi radialis": (134, 6, 7, 0, 40),
    "flexor pollicis longus": (156, 14, 7, 60, 30),
    "brachioradialis": (186, 6, 9, -10, 40),
    "extensor carpi radialis": (220, 7, 9, 0, 45),
    "abductor pollicis longus": (240, 11, 7, 65, 25),
    "extensor digitorum, index": (254, 8, 6, 45, 35),
    "extensor digitorum, middle": (266, 7, 6, 20, 40),
    "extensor digitorum, small": (284, 7, 6, 25, 40),
    "extensor carpi ulnaris": (314, 6, 8, 20, 45),
}
# Activations, relative to the maximum of the muscle, in the order of _MUSCLES.
_PATTERNS = {
    0: (0.035, 0.035, 0.035, 0.035, 0.035, 0.018, 0.035, 0.035, 0.035, 0.052, 0.035, 0.035, 0.052, 0.035, 0.052),
    1: (0.30, 0.55, 0.60, 0.60, 0.55, 0.20, 0.25, 0.50, 0.12, 0.40, 0.15, 0.15, 0.18, 0.15, 0.25),
    2: (0.45, 0.10, 0.12, 0.14, 0.10, 0.45, 0.50, 0.06, 0.06, 0.05, 0.05, 0.04, 0.05, 0.05, 0.08),
    3: (0.08, 0.05, 0.05, 0.05, 0.05, 0.04, 0.05, 0.05, 0.15, 0.50, 0.20, 0.30, 0.40, 0.30, 0.45),
    6: (0.05, 0.05, 0.06, 0.10, 0.28, 0.05, 0.08, 0.28, 0.06, 0.12, 0.14, 0.06, 0.13, 0.11, 0.06),
    7: (0.06, 0.06, 0.11, 0.30, 0.10, 0.06, 0.06, 0.24, 0.06, 0.11, 0.11, 0.12, 0.06, 0.11, 0.08),
    8: (0.10, 0.13, 0.30, 0.10, 0.06, 0.05, 0.05, 0.22, 0.05, 0.10, 0.11, 0.14, 0.11, 0.08, 0.10),
    9: (0.14, 0.30, 0.11, 0.06, 0.05, 0.04, 0.04, 0.22, 0.05, 0.08, 0.13, 0.14, 0.14, 0.06, 0.14),
}
_MUSCLE_TABLE = np.array(list(_MUSCLES.values()), float)  # (muscles, 5)
_PATTERN_TABLE = np.array([_PATTERNS[gesture] for gesture in GESTURES])  # (gestures, muscles)
_ACTIVE = tuple(gesture for gesture in GESTURES if gesture > 0)

# How much people, days and repetitions differ.
_ANGLE_SPREAD = 8.0  # degrees, of each muscle's position
_STRENGTH_SPREAD = 0.3  # of a muscle's potentials; this and the next five apply to the logarithm
_HABIT_SPREAD = 0.4  # of a muscle's activation in a gesture, between people
_REPETITION_SPREAD = 0.25  # the same between repetitions
_FORCE_SPREAD = 0.3  # of all muscles together, between repetitions
_UNSTEADY = 0.2  # of a muscle's activation, from one half second to the next
_RESTLESS = 1.0  # of a muscle's activation in idle, every two seconds
_FAT = (2.0, 7.0)  # mm under the skin
_DONNING_SPREAD = 5.0  # degrees of rotation of the bands, between people and again between days
_RING_SPREAD = 3.0  # degrees of rotation of a ring relative to the others
_CONTACT_SPREAD = 0.1  # of the logarithm of an electrode's gain

# Interference from electrodes and amplifier, in counts.
_MAINS = 4.0  # amplitude of the 50 Hz line at the median electrode
_WANDER = 4.0  # RMS of the baseline
_NOISE = (1.0, 2.5)  # RMS of an electrode's white noise: smallest, largest

_PERSON, _SESSION, _RECORDING = 1, 2, 3  # kinds of random streams


@dataclass(frozen=True)
class Movement:
    """One gesture: the times (s) at which its phases begin."""

    gesture: int  # putEMG's code
    prompt: float  # the screen shows the gesture
    onset: float  # the hand begins to move
    held: float  # the gesture is reached
    unprompt: float  # the screen shows rest
    release: float  # the hand begins to let go
    idle: float  # the hand is at rest


@dataclass(frozen=True)
class Units:
    """A person's motor units as arrays with one value per unit; units of the same muscle are adjacent."""

    muscle: np.ndarray  # its index
    threshold: np.ndarray  # activation at which it is recruited
    size: np.ndarray  # counts at 10 mm
    angle: np.ndarray  # degrees
    depth: np.ndarray  # mm under the skin
    innervation: np.ndarray  # mm along the arm, where its potentials start


@dataclass(frozen=True)
class Person:
    """What stays the same for a person from day to day."""

    units: Units
    patterns: np.ndarray  # (gestures, muscles) activations
    girth: float  # relative to the average forearm
    turn: float  # degrees of rotation of this person's bands, on average


@dataclass(frozen=True)
class Simulated:
    """One recording: counts (T, 24) int16; labels (T,) int8 as prompted, as seen on video, and cleaned."""

    counts: np.ndarray
    prompted: np.ndarray  # TRAJ_1
    seen: np.ndarray  # TRAJ_GT_NO_FILTER: the gesture from the movement's onset to its end
    truth: np.ndarray  # TRAJ_GT: the same, but -1 while the hand moves


def simulate(seed: int, subject: int, day: int, trajectory: str, seconds: float) -> Simulated:
    """A recording of `seconds` s at putEMG's rate; the same arguments give the same bytes."""
    n_samples = round(seconds * RATE)
    rng = _stream(_RECORDING, seed, subject, day, TRAJECTORIES.index(trajectory))
    movements = schedule(trajectory, seconds, rng)
    someone = person(seed, subject)
    drive = activations(someone.patterns, movements, n_samples, rng)
    when, unit = spikes(someone.units, drive, rng)
    session = _stream(_SESSION, seed, subject, day)
    angles = _electrode_angles(someone.turn, session)
    analogue = surface(someone, angles, when, unit, n_samples)
    analogue *= np.exp(session.normal(0, _CONTACT_SPREAD, (N_CHANNELS, 1))).astype(np.float32)
    _interference(analogue, session, rng)
    top = 2 ** (ADC_BITS - 1)
    counts = np.clip(np.rint(analogue), -top, top - 1).T.astype(np.int16, order="C")
    return Simulated(counts, *_labels(movements, n_samples))


def _stream(kind: int, seed: int, subject: int, day: int = 0, trajectory: int = 0) -> np.random.Generator:
    return np.random.default_rng([kind, seed, subject, day, trajectory])


# --- what the person does ----------------------------------------------------------------------------------


def schedule(trajectory: str, seconds: float, rng: np.random.Generator) -> list[Movement]:
    """The movements of a recording in time order, with every gesture equally often.

    `repeats_long` and `repeats_short` repeat each gesture before the next one, `sequential` goes through all gestures
    again and again. A slot is idle time and one movement. In SHORTEST seconds and more, a hold lasts at least 0.8 s.
    """
    repetitions = max(1, int((seconds - _LEAD) / (len(_ACTIVE) * _SLOT[trajectory])))
    gestures = list(_ACTIVE) * repetitions
    if trajectory != "sequential":
        gestures.sort()
    slot = (seconds - _LEAD) / len(gestures)
    return [_movement(g, _LEAD + i * slot, slot, trajectory, rng) for i, g in enumerate(gestures)]


def _movement(gesture: int, start: float, slot: float, trajectory: str, rng: np.random.Generator) -> Movement:
    rise, fall = rng.uniform(*_MOVE, 2)
    reaction, late = rng.uniform(*_REACTION, 2)
    hold = min(_HOLD_SHARE * slot, _HOLD_MOST[trajectory]) * rng.uniform(0.95, 1.05)
    spare = slot - reaction - rise - hold - fall  # idle, most of it before the prompt
    prompt = start + spare * rng.uniform(0.8, 1.0)
    onset = prompt + reaction
    held = onset + rise
    release = held + hold
    return Movement(gesture, prompt, onset, held, release - late, release, release + fall)


def _labels(movements: list[Movement], n_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T,) int8 each: prompted, seen, cleaned."""
    prompted, seen, truth = np.zeros((3, n_samples), np.int8)
    for m in movements:
        prompted[_samples(m.prompt) : _samples(m.unprompt)] = m.gesture
        seen[_samples(m.onset) : _samples(m.idle)] = m.gesture
        truth[_samples(m.onset) : _samples(m.idle)] = REST
        truth[_samples(m.held) : _samples(m.release)] = m.gesture
    return prompted, seen, truth


def _samples(seconds: float) -> int:
    return round(seconds * RATE)


# --- muscles -----------------------------------------------------------------------------------------------


def person(seed: int, subject: int) -> Person:
    """A person's anatomy and habits."""
    rng = _stream(_PERSON, seed, subject)
    return Person(
        units=pool(rng),
        patterns=_PATTERN_TABLE * np.exp(rng.normal(0, _HABIT_SPREAD, _PATTERN_TABLE.shape)),
        girth=float(np.exp(rng.normal(0, 0.08))),
        turn=float(rng.normal(0, _DONNING_SPREAD)),
    )


def pool(rng: np.random.Generator) -> Units:
    """All motor units of one person: few large and many small ones, in the order of recruitment."""
    angle, depth, width, centre, half_length = _MUSCLE_TABLE.repeat(_UNITS, axis=0).T
    n_muscles, n_units = len(_MUSCLE_TABLE), len(angle)
    rank = np.tile(np.arange(_UNITS) / (_UNITS - 1), n_muscles)  # 0: recruited first, 1: recruited last
    low, high = _THRESHOLDS
    strength = np.exp(rng.normal(0, _STRENGTH_SPREAD, n_muscles)).repeat(_UNITS)
    angle = angle + rng.normal(0, _ANGLE_SPREAD, n_muscles).repeat(_UNITS) + rng.normal(0, 1, n_units) * width
    fat = rng.uniform(*_FAT)
    return Units(
        muscle=np.arange(n_muscles).repeat(_UNITS),
        threshold=low * (high / low) ** rank,
        size=_COUNTS * strength * _SIZES**rank,
        angle=angle,
        depth=fat + depth * rng.uniform(0.6, 1.4, n_units),
        innervation=centre + rng.normal(0, 0.2, n_units) * half_length,
    )


def activations(
    patterns: np.ndarray, movements: list[Movement], n_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """(muscles, control steps) activation of every muscle, 0 to 1.

    A movement changes gradually from the idle pattern to that of the gesture and back. Its force, and the share of each
    muscle in it, are drawn for each movement, and force is never quite steady.
    """
    gestures = list(GESTURES)
    times = np.arange(0, n_samples + _CONTROL_STEP, _CONTROL_STEP) / RATE
    n_muscles = patterns.shape[1]
    drive = patterns[0][:, None] * _wavering(times, 2.0, _RESTLESS, n_muscles, rng)
    for m in movements:
        force = np.exp(rng.normal(0, _FORCE_SPREAD) + rng.normal(0, _REPETITION_SPREAD, n_muscles))
        first, last = np.searchsorted(times, (m.onset, m.idle))
        part = times[first:last]
        rise, fall = (part - m.onset) / (m.held - m.onset), (part - m.release) / (m.idle - m.release)
        envelope = _smooth(rise) * (1 - _smooth(fall))
        target = (patterns[gestures.index(m.gesture)] * force)[:, None]
        drive[:, first:last] += (target - drive[:, first:last]) * envelope
    return np.clip(drive * _wavering(times, 0.5, _UNSTEADY, n_muscles, rng), 0, 1)


def _wavering(times: np.ndarray, every: float, spread: float, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """(n_rows, times) random factors around 1, drawn every `every` s and interpolated; `spread`: standard deviation of
    their logarithm."""
    knots = np.arange(0, times[-1] + 2 * every, every)
    return np.exp([np.interp(times, knots, row) for row in rng.normal(0, spread, (n_rows, len(knots)))])


def _smooth(x: np.ndarray) -> np.ndarray:
    """A smooth function that goes from 0 to 1 as `x` does."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def spikes(units: Units, drive: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All discharges: (times in samples as float, units' indices), both (n_spikes,).

    Each unit is a renewal process in a transformed time, the integral of its rate, in which it would fire once per
    second.
    """
    steps = np.arange(drive.shape[1]) * float(_CONTROL_STEP)
    when, unit = [], []
    for i, (muscle, threshold) in enumerate(zip(units.muscle, units.threshold, strict=True)):
        above = drive[muscle] - threshold
        rate = np.where(above > 0, np.minimum(_FIRING[0] + _FIRING_GAIN * above, _FIRING[1]), 0.0)
        phase = np.concatenate([[0.0], np.cumsum(rate[:-1])]) * (_CONTROL_STEP / RATE)
        intervals = rng.normal(1, _FIRING_SPREAD, int(phase[-1] * 1.3) + 16).clip(0.3)
        due = np.cumsum(intervals) - rng.uniform(0, 1)
        due = due[(due > 0) & (due < phase[-1])]
        when.append(np.interp(due, phase, steps))
        unit.append(np.full(len(due), i))
    return np.concatenate(when), np.concatenate(unit)


# --- from muscles to electrodes ----------------------------------------------------------------------------


def _electrode_angles(turn: float, rng: np.random.Generator) -> np.ndarray:
    """(3, 8) angles of the electrodes from the ulna, degrees, for one session."""
    even = np.arange(RING_SIZE) * (360.0 / RING_SIZE)
    rings = turn + rng.normal(0, _DONNING_SPREAD) + rng.normal(0, _RING_SPREAD, (RINGS, 1))
    return rings + even + rng.normal(0, 1, (RINGS, RING_SIZE))


def potential(distance: float, times: np.ndarray) -> np.ndarray:
    """Shape of an action potential that passes an electrode at a distance of `distance` mm at time 0; peak 1.

    times: ms. A tripole of currents travels along the fibre; the potential of each pole is its current divided by its
    distance.
    """
    place, current = np.array(_POLES).T[:, :, None]
    shape = (current / np.hypot(distance, _VELOCITY * times + place)).sum(axis=0)
    return shape / np.abs(shape).max()


def _spectra(length: int) -> np.ndarray:
    """(distances, frequencies) complex64: Fourier transforms of the potentials, with the amplifier's 3-900 Hz
    band-pass."""
    half = int(_POTENTIAL_SECONDS / 2 * RATE)
    times = np.arange(-half, half + 1) * (1000 / RATE)
    taper = np.hanning(len(times))
    shapes = np.zeros((len(_DISTANCES), length))
    for row, distance in zip(shapes, _DISTANCES, strict=True):
        row[: len(times)] = potential(distance, times) * taper
    spectra = fft.rfft(np.roll(shapes, -half, axis=1))
    frequency = fft.rfftfreq(length, 1 / RATE)
    band = (1j * frequency / 3) / (1 + 1j * frequency / 3) / (1 + 1j * frequency / 900)
    return (spectra * band).astype(np.complex64)


def _reach(units: Units, radius: float, angles: np.ndarray) -> np.ndarray:
    """(units, distances, electrodes) float32: weight of each potential shape of a unit at each electrode of a ring.

    The shape at any distance is a mixture of those at the two nearest of _DISTANCES.
    """
    below = (radius - units.depth)[:, None]  # distance from the arm's axis
    turn = np.deg2rad(units.angle[:, None] - angles)
    distance = np.sqrt(radius**2 + below**2 - 2 * radius * below * np.cos(turn))  # (units, electrodes)
    place = np.interp(np.log(distance), np.log(_DISTANCES), np.arange(len(_DISTANCES)))
    blend = np.clip(1 - np.abs(place[:, None] - np.arange(len(_DISTANCES))[:, None]), 0, 1)
    return (blend * ((10 / distance) ** _DECAY)[:, None]).astype(np.float32)


def surface(someone: Person, angles: np.ndarray, when: np.ndarray, unit: np.ndarray, n_samples: int) -> np.ndarray:
    """(24, T) float32: the signal of the muscles at the electrodes, in counts.

    For each ring, every unit's spikes are delayed by the travel time from its innervation zone to the ring, weighted
    for each electrode and distance, and convolved with the shapes at that distance. `angles`: (3, 8) of the electrodes.
    """
    units = someone.units
    length = fft.next_fast_len(n_samples + int(_POTENTIAL_SECONDS * RATE), real=True)
    spectra = _spectra(length)
    _, _, _, centre, half_length = _MUSCLE_TABLE[units.muscle].T
    out = np.empty((N_CHANNELS, n_samples), np.float32)
    for ring, (place, radius) in enumerate(zip(_RING_PLACES, _RING_RADII * someone.girth, strict=True)):
        gain = units.size * np.exp(-0.5 * ((place - centre) / half_length) ** 2)
        delay = np.abs(place - units.innervation) / _VELOCITY * (RATE / 1000)  # samples
        arrival = np.rint(when + delay[unit]).astype(np.int64)
        in_time = arrival < n_samples
        train = sparse.csr_array(
            (gain[unit[in_time]].astype(np.float32), (arrival[in_time], unit[in_time])), shape=(length, len(gain))
        )
        reach = _reach(units, radius, angles[ring])
        total = np.zeros((RING_SIZE, spectra.shape[1]), np.complex64)
        for shape, spectrum in enumerate(spectra):
            total += fft.rfft(np.ascontiguousarray((train @ reach[:, shape]).T)) * spectrum
        channels = slice(ring * RING_SIZE, (ring + 1) * RING_SIZE)
        out[channels] = fft.irfft(total, length)[:, :n_samples]
    return out


def _interference(analogue: np.ndarray, session: np.random.Generator, rng: np.random.Generator) -> None:
    """Add 50 Hz mains with harmonics, baseline wander and amplifier noise to (24, T) counts, in place."""
    n_channels, n_samples = analogue.shape
    mains = np.exp(session.normal(np.log(_MAINS), 0.4, (n_channels,)))
    times = np.arange(n_samples) / RATE
    angle = 2 * np.pi * 50 * times + rng.uniform(0, 2 * np.pi)
    hum = (np.sin(angle) + 0.05 * np.sin(2 * angle) + 0.2 * np.sin(3 * angle)).astype(np.float32)
    noise = session.uniform(*_NOISE, (n_channels,))
    knots = np.arange(0, times[-1] + 0.5, 0.25)
    for channel in range(n_channels):
        wander = np.interp(times, knots, rng.normal(0, _WANDER, len(knots))).astype(np.float32)
        hiss = rng.standard_normal(n_samples, np.float32) * np.float32(noise[channel])
        analogue[channel] += np.float32(mains[channel]) * hum + wander + hiss
