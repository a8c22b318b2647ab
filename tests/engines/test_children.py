"""A process that an engine runs in ends with the one that started it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUSY = """
from terrazzo.engines.children import end_with_parent
end_with_parent()
print("busy", flush=True)
while True:
    pass
"""


@pytest.mark.parametrize("left", [b"", b"a request that nobody read"])
def test_a_child_ends_in_the_middle_of_its_work(left: bytes) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == b"busy\n"
        child.stdin.write(left)
        child.stdin.close()
        assert child.wait(120) == 0
