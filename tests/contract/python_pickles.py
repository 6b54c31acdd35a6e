"""Owns what Python itself writes and means: random lists of datapoints, pickled, and texts of numbers.

Never imports more than the standard library. Prints JSON lines:
{"protocol": n, "pickle": hex, "expected": [[name in hex, timestamp, value], ...]} and {"text": hex, "float": number}.
Numbers are texts, as JSON has neither NaN nor infinity.
"""
import json
import pickle
import random
import struct
import sys

LETTERS = ["a", "b", "cpu", ".", ";t=v", " ", "'", '"', "\\", "\\u", "\n", "\r", "\t", "\0", "\x1a", "\x7f",
           "\xe9", "\xff", "\u4e2d", "\u20ac", "\uffff", "\U0001f600", "\U0010ffff"]


def name(rng):
    text = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 8)))
    kind = rng.random()
    if kind < 0.7:
        return text, text.encode()
    if kind < 0.9:
        return text.encode(), text.encode()
    data = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
    return data, data


def number(rng):
    """A number as a sender may hold it, and as the float that Python makes of it."""
    value = rng.choice([
        lambda: rng.randint(-300, 300),
        lambda: rng.randint(-2**31, 2**33),
        lambda: rng.choice([1, -1]) * rng.getrandbits(rng.randint(1, 1023)),
        lambda: rng.choice([1, -1]) * ((1 << rng.randint(53, 1000)) + rng.choice([-1, 0, 1])),
        lambda: rng.random() * 10 ** rng.randint(-20, 20),
        lambda: struct.unpack("d", struct.pack("Q", rng.getrandbits(64)))[0],
        lambda: rng.choice([float("nan"), float("inf"), float("-inf"), -0.0]),
        lambda: rng.choice([True, False]),
        lambda: str(rng.randint(-10**20, 10**20)),
        lambda: "%.2f" % (rng.random() * 1e6),
        lambda: " %r\n" % rng.random(),
        lambda: b"1448390000.5",
    ])()
    return value, repr(float(value))


def sequence(rng, items):
    return rng.choice([list, tuple])(items)


def datapoints(rng):
    items, expected = [], []
    for _ in range(rng.choice([0, 1, 2, 5, 30])):
        written, meant = name(rng)
        points = []
        for _ in range(rng.choice([1, 1, 1, 3])):
            (timestamp, timestamp_float), (value, value_float) = number(rng), number(rng)
            points.append(sequence(rng, [timestamp, value]))
            expected.append([meant.hex(), timestamp_float, value_float])
        items.append(sequence(rng, [written] + points))
        if rng.random() < 0.2:  # met again through the memo
            items.append(items[-1])
            expected.extend(expected[-len(points):])
    return sequence(rng, items), expected


def pickles(rng):
    for _ in range(100):
        items, expected = datapoints(rng)
        for protocol in range(min(pickle.HIGHEST_PROTOCOL, 5) + 1):
            for dumps in pickle.dumps, pickle._dumps:
                print(json.dumps({"protocol": protocol, "pickle": dumps(items, protocol).hex(), "expected": expected}))


def texts(rng):
    """Texts of numbers, right and wrong; Python 2 knew no underscores."""
    for _ in range(20000):
        text = "".join(rng.choice("00123456789....eE+-- \t\r\n\x0b\x0c\0xinfa") for _ in range(rng.randint(0, 8)))
        if rng.random() < 0.3:
            text = repr(struct.unpack("d", struct.pack("Q", rng.getrandbits(64)))[0])
        if rng.random() < 0.1:
            text = "%.*f" % (rng.randint(0, 40), rng.random() * 10 ** rng.randint(-30, 40))
        try:
            meant = repr(float(text))
        except ValueError:
            meant = None
        print(json.dumps({"text": text.encode().hex(), "float": meant}))


if __name__ == "__main__":
    {"pickles": pickles, "texts": texts}[sys.argv[1]](random.Random(20261124))
