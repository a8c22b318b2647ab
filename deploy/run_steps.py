"""Run the RUN lines of an image's packages without a container: in a bare folder, with this Python.

    python deploy/run_steps.py exported FOLDER
    python deploy/run_steps.py full FOLDER

The environment is made in FOLDER/venv instead of /venv. What COPY brings is copied to FOLDER/source. At the end the
size of the environment is printed, and the image's command can be run from there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def steps(target: str) -> tuple[list[str], list[str]]:
    """The arguments of COPY and the commands of RUN that make ``target``-packages."""
    text = (REPOSITORY / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    stages = {name: body for name, body in re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.M | re.S)}
    copied = [line for line in stages["source"].splitlines() if line.startswith("COPY ")]
    run = [line.removeprefix("RUN ") for line in stages[f"{target}-packages"].splitlines() if line.startswith("RUN ")]
    return [name for line in copied for name in line.split()[1:-1]], run


def main() -> None:
    target, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    copied, commands = steps(target)
    source = folder / "source"
    for name in copied:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, source / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for command in commands:
        command = command.replace("/venv", str(folder / "venv"))
        print("+", command, flush=True)
        subprocess.run(command, shell=True, check=True, cwd=source, env=environment)
    files = [path for path in (folder / "venv").rglob("*") if path.is_file() and not path.is_symlink()]
    print(f"{folder / 'venv'}: {sum(path.stat().st_size for path in files) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
