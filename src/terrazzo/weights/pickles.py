"""A safe reader of pickles: whatever class or function a file names becomes a placeholder, and nothing is ever called.

A pickle is a program for a small machine with a stack. Python's own machine imports the names that the program gives
and calls them; this one writes down what was asked for. Dictionaries, lists, text and numbers come out as themselves,
every object of a class as a `Placeholder` with the name, the arguments and the state that the file gives it. So the
bookkeeping of any training program can stand beside its tensors, and no installed package can be made to act.

What a file can cost is bounded: it is not read beyond its end, and the number of steps and the size of numbers have
limits.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

__all__ = [
    "Global",
    "PersistentId",
    "PickleSource",
    "Placeholder",
    "ProgramInPickle",
    "read_pickle",
]

MAX_BYTES = 256 << 20  # of one pickle; its tensors' numbers lie elsewhere
MAX_STEPS = 4_000_000
MAX_INTEGER_BITS = 1024
MAX_NAME = 500  # characters of a module and a class
ENTRY_BYTES = 100  # about what an entry of a dictionary takes in memory

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2 that protocols 0 to 2 still name."""

PROGRAMS = frozenset((
    "_posixsubprocess", "_thread", "asyncio", "bdb", "cProfile", "code", "codeop", "commands", "ctypes",
    "ensurepip", "ftplib", "http.client", "http.server", "imaplib", "imp", "importlib", "joblib", "marshal",
    "multiprocessing", "nt", "ntpath", "os", "pdb", "pickle", "_pickle", "pip", "popen2", "poplib", "posix",
    "posixpath", "profile", "pty", "requests", "runpy", "shutil", "smtplib", "socket", "socketserver", "subprocess",
    "sys", "tarfile", "telnetlib", "tempfile", "threading", "timeit", "torch.hub", "torch.jit", "torch.package",
    "torch.utils.cpp_extension", "trace", "urllib.request", "venv", "webbrowser", "xmlrpc", "zipfile", "zipimport",
))  # fmt: skip
"""Modules that start programs, open files or connections, or run code. None has a class that training programs keep in
checkpoints, so a file that names one is an attack, on other programs if not on this one, and is refused as a whole."""

RUN_CODE = frozenset((
    "eval", "exec", "compile", "open", "__import__", "breakpoint", "input", "globals", "locals", "vars", "setattr",
    "delattr",
))  # fmt: skip
"""Functions of `builtins` that do the same. `getattr` is not among them: Python pickles enumerations by it."""

DICTIONARIES = frozenset(("builtins.dict", "collections.OrderedDict", "collections.defaultdict", "collections.Counter"))
SEQUENCES = frozenset(("builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset"))


class ProgramInPickle(Exception):
    """A pickle names something that starts programs, opens files or runs code; the argument is its name."""


class Global:
    """A class or function that a pickle names."""

    __slots__ = ("path",)

    def __init__(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a class without a name")
        if len(module) + len(name) > MAX_NAME:
            raise ValueError(f"a class with a name of {len(module) + len(name):,} characters")
        module = RENAMED.get(module, module)
        self.path = f"{module}.{name}"
        parts = module.split(".")
        inside = {".".join(parts[: count + 1]) for count in range(len(parts))}
        if inside & PROGRAMS or (module == "builtins" and name.split(".")[0] in RUN_CODE):
            raise ProgramInPickle(self.path)


class Placeholder:
    """What stands for an object of a class that was not imported, or for the result of a function that was not called.

    Attributes:
        path: module and name of the class or function.
        args: what it was to be called with.
        state: what the object was to be given afterwards.
        items: keys and values that were to be put into it.
        entries: what was to be appended to it.
    """

    __slots__ = ("args", "entries", "items", "path", "state")

    def __init__(self, path: str, args: tuple[Any, ...]) -> None:
        self.path = path
        self.args = args
        self.state: Any = None
        self.items: dict[Any, Any] | None = None
        self.entries: list[Any] | None = None


class PersistentId:
    """A reference to something outside of the pickle, such as the numbers of a tensor."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class PickleSource:
    """A file that is read to its end and no further, whatever sizes it claims.

    Args:
        file: opened at the pickle.
        size: bytes from there to the file's end.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.left = min(size, MAX_BYTES)

    def read(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError("a value in it is longer than the rest of the file")
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(self.left)
        self.left -= len(line)
        return line


def read_pickle(source: PickleSource, references: list[PersistentId] | None = None) -> Any:
    """Read one pickle; the source stands behind it afterwards.

    Args:
        source: the file.
        references: receives every reference to something outside.

    Raises:
        ProgramInPickle: it names what runs programs.
        ValueError: it is damaged, or larger than any checkpoint's.
    """
    machine = _Machine([] if references is None else references)
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(source)):  # type: ignore[arg-type]
        if steps > MAX_STEPS:
            raise ValueError(f"it has more than {MAX_STEPS:,} steps, which no checkpoint needs")
        if opcode.name == "STOP":
            return machine.pop()
        machine.do(opcode.name, argument)
    raise ValueError("it ends before its last step")


class _Machine:
    """The stack machine. Sets become lists: what a file puts into them need not be hashable."""

    def __init__(self, references: list[PersistentId]) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.references = references
        self.room = MAX_BYTES  # for copies: a step of three bytes can copy a value of any size, again and again

    def do(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in LITERALS:
            if isinstance(argument, int) and argument.bit_length() > MAX_INTEGER_BITS:
                raise ValueError(f"it holds a number of {argument.bit_length():,} bits")
            self.stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        else:
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise ValueError(f"it has a step {name}, which torch.save never writes")
            step(argument)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("it takes more than it has put down")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise ValueError("it takes more than it has put down")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("it looks for a mark that is not there")
        values, self.stack = self.stack, self.marks.pop()
        return values

    # Each method below is one step of the language, by its name in `pickletools`.

    def _proto(self, _: Any) -> None: ...

    def _frame(self, _: Any) -> None: ...

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def _pop_mark(self, _: Any) -> None:
        self.since_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.top())

    def _put(self, index: int) -> None:
        self.memo[index] = self.top()

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("it refers to a value that it has not stored")
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        values = tuple(self.since_mark())
        self.stack.append(values)

    def _tuple1(self, _: Any) -> None:
        self.stack.append((self.pop(),))

    def _tuple2(self, _: Any) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def _tuple3(self, _: Any) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def _list(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append(values)

    def _frozenset(self, _: Any) -> None:
        self._list(None)

    def _dict(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append({})
        self._store(values)

    def _append(self, _: Any) -> None:
        value = self.pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        self._extend(self.since_mark())

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._store([key, value])

    def _setitems(self, _: Any) -> None:
        self._store(self.since_mark())

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(Global(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(Global(module, name))

    def _reduce(self, _: Any) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self._called(function, args))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        _, args, function = self.pop(), self.pop(), self.pop()
        self.stack.append(self._called(function, args))

    def _inst(self, names: str) -> None:
        module, _, name = names.partition(" ")
        args = tuple(self.since_mark())
        self.stack.append(self._called(Global(module, name), args))

    def _obj(self, _: Any) -> None:
        function, *args = self.since_mark() or [None]
        self.stack.append(self._called(function, tuple(args)))

    def _build(self, _: Any) -> None:
        state = self.pop()
        if isinstance(self.top(), Placeholder):
            self.top().state = state

    def _binpersid(self, _: Any) -> None:
        self._persid(self.pop())

    def _persid(self, value: Any) -> None:
        if isinstance(value, tuple) and len(value) > 1 and value[0] == "module" and isinstance(value[1], Global):
            self.stack.append(value[1])  # a class with its source, which the older form keeps
            return
        reference = PersistentId(value)
        self.references.append(reference)
        self.stack.append(reference)

    def _extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Placeholder):
            target.entries = target.entries or []
            target = target.entries
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}")
        target += values

    def _store(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Placeholder):
            target.items = target.items or {}
            target = target.items
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError(f"it puts keys into a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            _put_into(target, key, value)

    def _called(self, function: Any, args: Any) -> Any:
        """What stands for a call. Only Python's own containers become what they would have been."""
        if not isinstance(args, tuple) or not isinstance(function, (Global, Placeholder)):
            raise ValueError("it calls what is not a function")
        path = function.path
        if path in ("copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__") and args:
            path = args[0].path if isinstance(args[0], Global) else path
            args = args[1:]
        if path in DICTIONARIES:
            filled: dict[Any, Any] = {}
            for given in args:
                pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list) else ()
                self._take_room(ENTRY_BYTES * len(pairs))
                for pair in pairs:
                    if isinstance(pair, (tuple, list)) and len(pair) == 2:
                        _put_into(filled, *pair)
            return filled
        if path in SEQUENCES:
            items = args[0] if args and isinstance(args[0], (list, tuple)) else ()
            self._take_room(8 * len(items))
            return list(items)
        if path == "_codecs.encode" and args and isinstance(args[0], str):  # bytes, in protocols 0 to 2
            self._take_room(len(args[0]))
            return args[0].encode("latin-1", "replace")
        if path == "builtins.bytearray" and args and isinstance(args[0], bytes):
            return args[0]
        return Placeholder(path, args)

    def _take_room(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise ValueError("it copies its own values more often than any checkpoint needs")


CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
))  # fmt: skip


def _put_into(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Tensors and notes have names; what is stored under an object or a tuple is left out."""
    if key is None or isinstance(key, (str, int, float, bytes)):
        target[key] = value
