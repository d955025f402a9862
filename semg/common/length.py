"""A length of signal as the user gives it, in samples or as time."""

import re

LARGEST = 2**53  # anything computed from a length then fits the machine's integers
_FORM = re.compile(r"(\d+(?:\.\d+)?)(ms|s)?")


class Length:
    """Samples (`1280`) or time (`250ms`, `0.25s`), converted to samples at a rate. ValueError for anything else."""

    def __init__(self, text: str) -> None:
        match = _FORM.fullmatch(text.strip())
        if not match or (match[2] is None and "." in match[1]):
            raise ValueError(f"expected samples (1280) or time (250ms, 0.25s), found {text!r}")
        self.text = text.strip()
        self._value, self._unit = float(match[1]), match[2]
        if not 0 < self._value <= LARGEST:
            raise ValueError(f"expected a length above 0 and at most {LARGEST:g}, found {text!r}")

    def samples(self, rate: float) -> int:
        """Whole samples at `rate` Hz, at least one."""
        if self._unit is None:
            return int(self._value)
        seconds = self._value / 1000 if self._unit == "ms" else self._value
        return max(1, round(seconds * rate))

    def say(self, samples: float, rate: float) -> str:
        """A number of samples in the unit of this length: `128 samples`, `25 ms` or `0.025 s`."""
        if self._unit is None:
            return f"{samples:g} samples"
        seconds = samples / rate
        return f"{1000 * seconds:g} ms" if self._unit == "ms" else f"{seconds:g} s"

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def nearest_divisor(number: int, value: int) -> int:
    """The divisor of a number whose ratio to a value is nearest to 1; the smaller of two."""
    divisors = (one for one in range(1, number + 1) if number % one == 0)
    return min(divisors, key=lambda divisor: max(divisor, value) / min(divisor, value))
