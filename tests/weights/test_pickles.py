"""Pickles read as data: no route of the language imports, calls or changes anything, and none costs more than its file.

Each hostile pickle names a function or class of a module that lies beside the test and leaves a mark when it is
imported or run in any way. Python's own reader proves that the route works.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.errors import CheckpointError, TerrazzoError
from terrazzo.weights import pickles, weight_sets
from terrazzo.weights.pickled_values import plain
from terrazzo.weights.pickles import PickleSource, Placeholder, read_pickle
from terrazzo.weights.tensor_files import read_tensor_file

EVIL = """
from pathlib import Path
HERE = Path(__file__).parent
(HERE / "ran").touch()
def run(*args, **kwargs):
    (HERE / "ran").touch()
    return {}
class Thing(dict):
    def __new__(cls, *args, **kwargs):
        run()
        return super().__new__(cls)
    def __init__(self, *args, **kwargs): run()
    def __setstate__(self, state): run()
    def __setitem__(self, key, value): run()
    def append(self, value): run()
    def extend(self, values): run()
    def __hash__(self):
        run()
        return 0
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `evil` that can be imported and leaves this mark."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tmp_path / "ran"


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return pickle.BININT1 + bytes([value])


RUN, THING = b"cevil\nrun\n", b"cevil\nThing\n"
ROUTES: dict[str, bytes] = {
    "import alone": RUN + b"0" + b"}",
    "REDUCE": RUN + b")R",
    "REDUCE with arguments": RUN + text("x") + b"\x85R",
    "STACK_GLOBAL": text("evil") + text("run") + b"\x93" + b")R",
    "NEWOBJ": THING + b")\x81",
    "NEWOBJ_EX": THING + b")}\x92",
    "INST": b"(ievil\nrun\n",
    "OBJ": b"(" + RUN + b"o",
    "BUILD": THING + b")\x81" + b"}" + text("a") + number(1) + b"sb",
    "BUILD in BUILD": THING + b")\x81" + THING + b")\x81}bb",
    "SETITEM": THING + b")\x81" + text("a") + number(1) + b"s",
    "SETITEMS": THING + b")\x81(" + text("a") + number(1) + b"u",
    "APPEND": THING + b")\x81" + number(1) + b"a",
    "APPENDS": THING + b")\x81(" + number(1) + b"e",
    "a key's hash": b"}" + THING + b")\x81" + number(1) + b"s",
    "a set's member": b"\x8f(" + THING + b")\x81\x90",
    "copyreg": b"ccopyreg\n_reconstructor\n" + THING + b"cbuiltins\ndict\n}\x87R",
    "copyreg's newobj": b"ccopyreg\n__newobj__\n" + THING + b"\x85R",
    "partial": b"cfunctools\npartial\n" + RUN + b"\x85R)R",
    "getattr": b"cbuiltins\ngetattr\ncevil\n__builtins__\n" + text("get") + b"\x86R)R",
    "a result that is called": RUN + b")R)R",
    "a factory": b"ccollections\ndefaultdict\n" + RUN + b"\x85R" + text("a") + number(1) + b"s",
    "map": b"cbuiltins\nlist\ncbuiltins\nmap\n" + RUN + b"](" + number(1) + b"e\x86R\x85R",
    "a key function": b"cbuiltins\nsorted\n](" + number(1) + b"e" + RUN + b"\x86R",
}
"""Each leaves the mark in Python's own reader, but for a few that need keyword arguments; none does here."""


def in_archive(path: Path, program: bytes) -> Path:
    """A file of the zip form whose pickle is this program; beside its value stands one tensor."""
    torch.save({"a.weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            if name.endswith("data.pkl"):
                data = _beside(data, program)
            archive.writestr(name, data)
    return path


def _beside(data: bytes, program: bytes) -> bytes:
    """`{"x": program's value, "state_dict": what the file held}`."""
    return b"\x80\x04}(" + text("x") + program + text("state_dict") + data[2:-1] + b"u."


def in_older_form(path: Path, program: bytes) -> Path:
    file = io.BytesIO()
    torch.save({"a.weight": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    file.seek(0)
    for _ in range(3):
        pickle.load(file)
    start = file.tell()
    data = file.getvalue()
    end = data.index(b"u.", start) + 2 if b"u." in data[start:] else data.index(b"s.", start) + 2
    path.write_bytes(data[:start] + _beside(data[start:end], program) + data[end:])
    return path


@pytest.mark.parametrize("form", [in_archive, in_older_form], ids=["zip", "older"])
@pytest.mark.parametrize("program", ROUTES.values(), ids=ROUTES)
def test_nothing_is_imported_or_called_and_the_tensors_are_read(
    tmp_path: Path, mark: Path, program: bytes, form: Callable[[Path, bytes], Path]
) -> None:
    tensors = read_tensor_file(form(tmp_path / "x.pth", program)).tensors
    assert torch.equal(tensors["a.weight"], torch.ones(2))
    assert not mark.exists() and "evil" not in sys.modules


@pytest.mark.parametrize("program", ROUTES.values(), ids=ROUTES)
def test_each_route_works_in_pythons_own_reader(mark: Path, program: bytes) -> None:
    with contextlib.suppress(TypeError, AttributeError):
        pickle.loads(b"\x80\x04" + program + b".")
    assert mark.exists()
    sys.modules.pop("evil", None)


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval", "builtins.exec",
        "__builtin__.eval", "builtins.__import__", "builtins.open", "runpy.run_path", "importlib.import_module",
        "pickle.loads", "torch.hub.load", "ctypes.CDLL", "socket.socket", "shutil.rmtree",
        "builtins.getattr.eval", "os.path.join",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [in_archive, in_older_form], ids=["zip", "older"])
def test_what_runs_programs_makes_the_whole_file_refused(
    tmp_path: Path, name: str, form: Callable[[Path, bytes], Path]
) -> None:
    module, _, function = name.rpartition(".")
    if name == "builtins.getattr.eval":  # harmless here, and common: how Python pickles enumerations
        assert read_tensor_file(form(tmp_path / "x.pth", b"cbuiltins\ngetattr\n")).tensors.keys() == {"a.weight"}
        return
    for program in (f"c{module}\n{function}\n".encode(), text(module) + text(function) + b"\x93"):
        with pytest.raises(CheckpointError) as caught:
            read_tensor_file(form(tmp_path / "x.pth", program + text("true") + b"\x85R"))
        assert caught.value.code == "checkpoint-pickle"
        assert f"asks Python to run {name.replace('__builtin__', 'builtins')} " in caught.value.message


def test_a_pickle_that_is_a_program_and_nothing_else(tmp_path: Path) -> None:
    for protocol in range(2, 6):
        path = tmp_path / "x.pth"
        path.write_bytes(pickle.dumps(Program(tmp_path / "ran"), protocol=protocol))
        with pytest.raises(CheckpointError, match=r"asks Python to run posix\.mkdir") as caught:
            read_tensor_file(path)
        assert caught.value.code == "checkpoint-pickle" and not (tmp_path / "ran").exists()


class Program:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_extension_codes_are_not_looked_up(tmp_path: Path, mark: Path, size: int) -> None:
    code = {1: b"\x82" + b"\x07", 2: b"\x83" + b"\x07\x00", 4: b"\x84" + b"\x07\x00\x00\x00"}[size]
    copyreg.add_extension("evil", "run", 7)
    try:
        with pytest.raises(CheckpointError, match=f"a step EXT{size}"):
            read_tensor_file(in_archive(tmp_path / "x.pth", code + b")R"))
    finally:
        copyreg.remove_extension("evil", "run", 7)
    assert not mark.exists()


# -- persistent ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        number(1),
        text("storage"),
        b")",
        text("module") + RUN + text("/etc/passwd") + text("source") + b"t",
        text("storage") + RUN + text("0") + text("cpu") + number(2) + b"t",
        text("storage") + b"ctorch\nFloatStorage\n" + text("../../x") + text("cpu") + number(2) + b"t",
        text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + text("many") + b"t",
        text("storage") + b"ctorch\nFloatStorage\n" + b"}" + text("cpu") + number(2) + b"t",
    ],
)
def test_references_of_the_wrong_form(tmp_path: Path, mark: Path, value: bytes) -> None:
    """A tensor with such numbers is refused when it is wanted, and passed over when it is not."""
    value = b"(" + value if value.endswith(b"t") else value
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + value + b"Q" + number(0) + number(2) + b"\x85" + number(1)
    tensor += b"\x85\x89}tR"
    beside = b"}" + text("y") + tensor + b"s"
    file = in_archive(tmp_path / "x.pth", beside)
    state = b"\x80\x02}" + text("a.weight") + tensor + b"s."
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, state if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError) as caught:
        read_tensor_file(file)
    assert caught.value.code in ("checkpoint-not-dense", "checkpoint-damaged") and not mark.exists()
    other = in_archive(tmp_path / "z.pth", b"}" + text("optimizer") + beside + b"s")
    assert read_tensor_file(other).tensors.keys() == {"a.weight"}


# -- what it may cost -------------------------------------------------------------------------------------------------

LAUGHS = b"](K\x01e\x94" + b"".join(b"](h" + bytes([k]) * 1 + b"h" + bytes([k]) + b"e\x94" for k in range(60))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"\x8d" + struct.pack("<Q", 1 << 62) + b"x", "longer than the rest"),
        (b"\x96" + struct.pack("<Q", 1 << 40) + b"x", "longer than the rest"),
        (b"B" + struct.pack("<I", (1 << 32) - 1) + b"x", "longer than the rest"),
        (b"]" + b"r" + struct.pack("<I", (1 << 32) - 1), None),  # a memo's index costs nothing
        (b"\x8b" + struct.pack("<I", 4000) + b"\x01" * 4000, "a number of"),
        (b"0" * 3, None),  # nothing to take down
        (b"t", "a mark that is not there"),
        (b"h\x63", "has not stored"),
        (b"N" * 2000 + b"0" * 10, "more than 1,000 steps"),
        (b"NN\x85R", "not a function"),
        (b"K\x01K\x02a", "appends to a int"),
        (b"K\x01K\x02K\x03s", "puts keys into a int"),
        (b"\x97", "NEXT_BUFFER"),
        (b"c\n\n", None),
        (b"\xff", "at position"),
    ],
)
def test_bombs_are_bounded(monkeypatch: pytest.MonkeyPatch, program: bytes, says: str | None) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 1000)
    data = b"\x80\x04}" + program + b"."
    try:
        read_pickle(PickleSource(io.BytesIO(data), len(data)))
    except ValueError as error:
        assert says is None or says in str(error)
    else:
        assert says is None


COPIES = {
    "lists": b"](" + b"K\x01" * 1000 + b"e\x940(" + b"cbuiltins\nlist\nh\x00\x85R" * 200 + b"l",
    "dictionaries": b"}(" + b"K\x01K\x02" * 1 + b"u\x940(" + b"cbuiltins\ndict\nh\x00\x85R" * 9000 + b"l",
    "bytes": text("a" * 9000) + b"\x940(" + b"c_codecs\nencode\nh\x00\x85R" * 200 + b"l",
}


@pytest.mark.parametrize("program", COPIES.values(), ids=COPIES)
def test_copies_of_one_value_are_bounded(monkeypatch: pytest.MonkeyPatch, program: bytes) -> None:
    data = b"\x80\x04" + program + b"."
    read_pickle(PickleSource(io.BytesIO(data), len(data)))
    monkeypatch.setattr(pickles, "MAX_BYTES", 800_000)
    with pytest.raises(ValueError, match="copies its own values"):
        read_pickle(PickleSource(io.BytesIO(data), len(data)))


def test_the_name_of_a_class_is_bounded() -> None:
    data = b"\x80\x04c" + b"a." * 300 + b"\nx\n."
    with pytest.raises(ValueError, match="a class with a name of 601 characters"):
        read_pickle(PickleSource(io.BytesIO(data), len(data)))


def test_mappings_that_hold_themselves_many_times_are_looked_at_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    as_mapping = weight_sets.as_mapping

    def counted(value: object) -> Any:
        looked.append(value)
        return as_mapping(value)

    monkeypatch.setattr(weight_sets, "as_mapping", counted)
    monkeypatch.setattr(weight_sets, "MOST", 10_000)
    looped = b"}\x94(" + b"".join(text(f"k{k}") + b"h\x00" for k in range(200)) + b"u"
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x04" + looped + b".")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_tensor_file(tmp_path / "x.pth")
    assert len(looked) < 50_000  # each of 200 entries leads to 200 others, five times over


def test_deep_shared_and_cyclic_structures(tmp_path: Path) -> None:
    deep = b"N" + b"\x85" * 20_000
    looped = b"}\x94" + text("me") + b"h\x00s"
    for program in (deep, b"]" * 20_000 + b"a" * 19_999, LAUGHS, looped, b"}" + deep + number(1) + b"s"):
        path = in_archive(tmp_path / "x.pth", program)
        assert read_tensor_file(path).tensors.keys() == {"a.weight"}
    for program in (deep, LAUGHS, looped):
        data = b"\x80\x04" + program + b"."
        plain(read_pickle(PickleSource(io.BytesIO(data), len(data))))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_program_ends_in_a_value_or_an_error(program: bytes) -> None:
    data = b"\x80\x04" + program + b"."
    try:
        plain(read_pickle(PickleSource(io.BytesIO(data), len(data))))
    except Exception as error:
        assert isinstance(error, (ValueError, TerrazzoError)) or type(error).__name__ == "ProgramInPickle"


# -- what it says -----------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.integers(0, 5))
def test_pythons_own_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    assert plain(read_pickle(PickleSource(io.BytesIO(data), len(data)))) == value


@pytest.mark.parametrize("protocol", range(6))
def test_what_training_programs_note_becomes_plain(protocol: int) -> None:
    import argparse
    import collections
    import pathlib

    import numpy as np

    noted = {
        "palette": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "best": np.float32(0.5),
        "big": np.array([1, 2], dtype=">i4"),
        "columns": np.asfortranarray(np.array([[1.0, 2.0], [3.0, 4.0]])),
        "args": argparse.Namespace(lr=0.1, names=("a", "b")),
        "found": collections.defaultdict(list, {"a": [1]}),
        "count": collections.Counter("aab"),
        "order": collections.OrderedDict(b=1, a=2),
        "where": pathlib.PurePosixPath("runs/one"),
        "flag": np.bool_(True),
        "bytes": b"x",
        "names": {"a"},
    }
    data = pickle.dumps(noted, protocol=protocol)
    read = read_pickle(PickleSource(io.BytesIO(data), len(data)))
    assert plain(read) == {
        "palette": [[0, 1, 2], [3, 4, 5]],
        "best": 0.5,
        "big": [1, 2],
        "columns": [[1.0, 2.0], [3.0, 4.0]],
        "args": {"lr": 0.1, "names": ["a", "b"]},
        "found": {"a": [1]},
        "count": {"a": 2, "b": 1},
        "order": {"b": 1, "a": 2},
        "where": "runs/one",
        "flag": True,
        "bytes": None,
        "names": ["a"],
    }
    assert isinstance(read["args"], Placeholder) and read["args"].path == "argparse.Namespace"
