"""Damage at random, for fuzz tests: of bytes, and of what a JSON object says. Seeded, so that a number says which."""

import json
import random
import string
from typing import Any

# values that readers have stumbled over somewhere: limits, wrong types, texts that mean something elsewhere
NASTY = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**40),
    *(0.5, -0.0, 1e-320, 1e308, 1e6, -1e6),
    *("", " ", "nan", "1", "..", "../x", "/", "a" * 300, "\n", "é", "\u202e", "=1+1", "idle", "uV", "session"),
    *([], {}, [[]], [None], [0], [-1], [1, 2, 3], [[1], [2, 3]], ["a", "a"], {"a": 1}),
)


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """`whole` with one kind of damage, never `whole` itself unless by chance."""
    data = bytearray(whole)
    kind = draw.choice(["flip", "flip", "flip", "flips", "cut", "swap", "repeat", "blank", "more"])
    if kind == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "flips":
        for _ in range(draw.randint(2, 20)):
            data[draw.randrange(len(data))] ^= draw.randint(1, 255)
    elif kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "more":
        data += draw.randbytes(draw.randint(1, 100))
    else:
        size = draw.randint(1, max(1, min(512, len(data) // 3)))
        one, other = (draw.randrange(len(data) - size + 1) for _ in range(2))
        first, second = bytes(data[one : one + size]), bytes(data[other : other + size])
        if kind == "blank":
            data[one : one + size] = bytes(size)
        else:
            data[other : other + size] = first
            if kind == "swap" and abs(one - other) >= size:
                data[one : one + size] = second
    return bytes(data)


def with_wrong_number(whole: bytes, draw: random.Random, first: int = 0) -> bytes:
    """`whole` with a number of 1, 2, 4 or 8 bytes somewhere from `first` on put to a limit: lengths and places lie."""
    data, size = bytearray(whole), draw.choice([1, 2, 4, 8])
    at = draw.randrange(min(first, len(data) - size - 1), len(data) - size)
    near = int.from_bytes(data[at : at + size], "little") + draw.choice([-1, 1, 8, -8])
    most = 256**size - 1
    value = draw.choice([0, 1, most, most // 2, most // 2 + 1, near & most, draw.randrange(most)])
    data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


def with_wrong_value(told: Any, draw: random.Random) -> Any:
    """What a JSON value says, with one thing somewhere in it replaced, left out, added or renamed."""
    result = json.loads(json.dumps(told))
    places = list(_places(result))
    holder, key = draw.choice(places)
    kind = draw.choice(["replace", "replace", "replace", "near", "drop", "add"])
    if kind == "drop":
        del holder[key]
    elif kind == "near" and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = draw.choice([holder[key] + 1, holder[key] - 1, -holder[key], holder[key] * 1000, holder[key] / 3])
    elif kind == "near" and isinstance(holder[key], list) and holder[key]:
        holder[key] = draw.choice([holder[key] * 2, holder[key][:-1], holder[key][::-1], holder[key] * 300])
    elif kind == "add" and isinstance(holder, dict):
        holder["".join(draw.choices(string.ascii_lowercase, k=3))] = draw.choice(NASTY)
    else:
        holder[key] = draw.choice(NASTY)
    return result


def _places(value: Any) -> Any:
    """(container, key) of everything inside `value`."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
