"""Owns pickles in which objects stand beside good datapoints, as Python 2.7 and 3 write them.

Prints JSON lines: {"what": class, "place": where it stands, "python": version, "protocol": n, "pickle": hex}. In each of
them `g.1` is 1.0, `g.2` is 2.0, and the item between them holds the object. With the argument "few" it prints those that
lie in tests/data/object-pickles.jsonl. Never needs more than the standard library: what numpy would write is written by
classes of the same names.
"""
import array
import binascii
import collections
import datetime
import decimal
import fractions
import io
import json
import pickle
import sys
import types
import uuid


def module(name, **content):
    made = sys.modules[name] = types.ModuleType(name)
    for key, value in content.items():
        value.__module__ = name
        setattr(made, key, value)
    return made


class dtype(object):
    def __init__(self, *args):
        self.args = args or ("f8", 0, 1)

    def __reduce__(self):
        return dtype, self.args, (3, "<", None, None, None, -1, -1, 0)


def scalar(kind, data):
    raise AssertionError("it is only ever written")


class float64(object):
    def __reduce__(self):
        return scalar, (dtype(), b"\x00\x00\x00\x00\x00\x00\xf8?")


class Old:  # In Python 2 an old-style class: INST and OBJ.
    def __init__(self):
        self.value = 1.5


class New(object):
    def __init__(self):
        self.value = {"a": [1, (2, 3)]}


class Slots(object):
    __slots__ = ["value"]

    def __init__(self):
        self.value = 1.5


class Float(float):
    pass


class Text(str):
    pass


class List(list):
    pass


class Wanting(object):
    """Made by its class with names of arguments: NEWOBJ_EX."""

    def __new__(cls, value=0):
        return object.__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"value": 1}


Pair = collections.namedtuple("Pair", "time value")
Item = collections.namedtuple("Item", "name point")
module("senders", Old=Old, New=New, Slots=Slots, Float=Float, Text=Text, List=List, Wanting=Wanting, Pair=Pair, Item=Item)
module("numpy", dtype=dtype)
module("numpy.core")
module("numpy.core.multiarray", scalar=scalar)

UTC = getattr(datetime, "timezone", None)
FEW = [
    ("decimal.Decimal", decimal.Decimal("1.5")),
    ("datetime.datetime", datetime.datetime(2026, 11, 24, 12, 30, 0, 5)),
    ("collections.OrderedDict", collections.OrderedDict([("a", 1), ("b", [2, 3])])),
    ("collections.deque", collections.deque([1.5, 2], 9)),
    ("numpy.float64", float64()),
    ("an old class", Old()),
]
MANY = FEW + [
    ("an aware datetime", datetime.datetime(2026, 11, 24, tzinfo=UTC.utc) if UTC else datetime.datetime(2026, 11, 24)),
    ("datetime.date", datetime.date(2026, 11, 24)),
    ("datetime.timedelta", datetime.timedelta(seconds=1.5)),
    ("fractions.Fraction", fractions.Fraction(3, 2)),
    ("collections.defaultdict", collections.defaultdict(list, {"a": [1]})),
    ("collections.Counter", collections.Counter("aab")),
    ("complex", 1.5 + 2j),
    ("uuid.UUID", uuid.UUID(int=1)),
    ("array.array", array.array("d", [1.5])),
    ("a class", New()),
    ("slots", Slots()) if sys.version_info[0] > 2 else ("a class", New()),
    ("a float of a class", Float(1.5)),
    ("a text of a class", Text("1.5")),
    ("a list of a class", List([1, 2])),
    ("arguments with names", Wanting()),
    ("a named tuple", Pair(1, 2)),
    ("an exception", ValueError("no number")),
    ("a function", len),
    ("a type", dict),
    ("an object in objects", collections.deque([[New(), decimal.Decimal(1)], {"a": FEW}])),
]


class Persistent(pickle.Pickler):
    """What ZODB and others do: an object is only named."""

    def persistent_id(self, written):
        return "id of it" if isinstance(written, New) else None


def dumps(items, protocol, pickler=pickle.Pickler):
    written = io.BytesIO()
    pickler(written, protocol).dump(items)
    return written.getvalue()


def show(what, place, protocol, pickled):
    hexed = binascii.hexlify(pickled).decode()
    version = "%d.%d" % sys.version_info[:2]
    print(json.dumps({"what": what, "place": place, "python": version, "protocol": protocol, "pickle": hexed}))


def around(item):
    return [("g.1", (1448390000, 1.0)), item, ("g.2", (1448390000, 2.0))]


def main(few):
    for protocol in range(min(pickle.HIGHEST_PROTOCOL, 5) + 1):
        for what, written in FEW if few else MANY:
            try:
                pickle.dumps(written, protocol)
            except (TypeError, ValueError):
                continue  # Of this class the old protocols have no way to write.
            places = {"value": around(("bad", (1448390000, written)))}
            if not few:
                if what != "an object in objects":
                    places["timestamp"] = around(("bad", (written, 1)))
                    places["name"] = around((written, (1448390000, 1)))
                    places["point"] = around(("bad", written))
                    places["item"] = around(written)
                places["more of an item"] = around(("bad", (written, 1), (written, 2)))
            for place, items in sorted(places.items()):
                show(what, place, protocol, dumps(items, protocol))
        show("a named item", "item", protocol, dumps(around(Item("bad", (1448390000, 1.5))), protocol))
        if not few:
            items = around(("bad", (1448390000, New())))
            show("a persistent id", "value", protocol, dumps(items, protocol, Persistent))


if __name__ == "__main__":
    main("few" in sys.argv[1:])
