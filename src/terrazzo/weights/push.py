"""`push`: sends a model to the Hugging Face hub, as a folder of Terrazzo or of transformers.

The weights, their configuration and the model card are sent; a run's page with its photos only where that is asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.arguments import checked
from terrazzo.config import read_json
from terrazzo.errors import ConfigError, OutputError, ServiceError
from terrazzo.notes import note
from terrazzo.text import first_few, list_names, said_by, show, shown_path
from terrazzo.weights.convert import convert
from terrazzo.weights.files import CONFIG_FILE
from terrazzo.weights.model_card import CARD_FILE, model_card

__all__ = ["Pushed", "push"]

PAGE_FILE = "report.html"
PLACEHOLDER = "OWNER/NAME"
LOGIN = "log in with: hf auth login, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be.

    Attributes:
        repo: the repository of the hub.
        files: bytes of each file by its name.
        address: of the repository's page; None after a dry run.
    """

    repo: str
    files: Mapping[str, int]
    address: str | None


@checked
def push(
    model: str | Path,
    repo: str,
    *,
    to: str = "terrazzo",
    private: bool = False,
    report: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Send a model to the Hugging Face hub: its weights, configuration and model card.

    Args:
        model: a run's folder, or anything else that `terrazzo.load` takes.
        repo: OWNER/NAME on the hub; it is created where it is not there.
        to: ``terrazzo`` for our own folder, ``hf`` for one that Hugging Face transformers loads (SegFormer only).
        private: create it so that only its owners see it.
        report: send the run's report.html too, which shows photos of its data set.
        overwrite: replace the model of a repository that holds one; the hub keeps the earlier version.
        dry_run: send nothing, and return what would be sent.

    Raises:
        ConfigError: the repository's name is not one, or there is no report to send.
        CheckpointError: the model cannot be loaded.
        OutputError: the repository holds a model already.
        ServiceError: the hub does not answer, or refuses.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{show(repo)} cannot be a model's name on the hub", fix="give OWNER/NAME") from error
    if repo.count("/") != 1:
        raise ConfigError(f"{show(repo)} does not say whose the model is", fix="give OWNER/NAME", code="push-name")
    source, page = Path(model), Path(model) / PAGE_FILE
    if report and not page.is_file():
        raise ConfigError(
            f"{shown_path(model)} has no {PAGE_FILE}", fix="write it with: terrazzo report RUN", code="push-report"
        )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        written = convert(model, folder, to)
        kept = next((path for path in (source / CARD_FILE, source / "model" / CARD_FILE) if path.is_file()), None)
        if to == "terrazzo":
            text = model_card(written, "terrazzo") if kept is None else kept.read_text(encoding="utf-8")
        else:
            text = model_card(written)
        (folder / CARD_FILE).write_text(text.replace(PLACEHOLDER, repo), encoding="utf-8")
        if report:
            shutil.copyfile(page, folder / PAGE_FILE)
        if paths := sorted(set(_paths_in(read_json(folder / CONFIG_FILE)))):
            listed = first_few(map(show, paths), 3)
            note(f"{CONFIG_FILE} names places on this machine, which everybody will see: {listed}")
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        return Pushed(repo, files, None if dry_run else _sent(folder, repo, private, overwrite, files))


def _sent(folder: Path, repo: str, private: bool, overwrite: bool, files: Mapping[str, int]) -> str:
    """Send a folder, and return the address of the repository's page."""
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        there = sorted(set(api.list_repo_files(repo)) & set(files))
        if there and not overwrite:
            raise OutputError(
                f"{repo} holds {list_names(there)} already",
                fix="choose another name, or add --overwrite: the hub keeps the earlier version",
                code="output-taken",
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model sent by terrazzo push")
    except errors.LocalTokenNotFoundError as error:
        raise ServiceError("the hub asks who you are", fix=LOGIN, code="hub-login") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ServiceError(f"the hub does not let you write {repo}", fix=LOGIN, code="hub-login") from error
        raise ServiceError(
            f"the hub refuses {repo}: {said_by(error, 200)}", fix="try again later", code="hub-failed"
        ) from error
    except (OSError, errors.OfflineModeIsEnabled) as error:
        raise _away(error) from error
    except Exception as error:
        failed_while_sending = isinstance(error, RuntimeError) and error.__cause__ is not None
        if not failed_while_sending and not type(error).__module__.startswith(("httpx", "requests", "huggingface_hub")):
            raise
        raise _away(error) from error
    return address


def _away(error: Exception) -> ServiceError:
    return ServiceError(
        f"the hub cannot be reached: {said_by(error.__cause__ or error, 200)}",
        fix="connect to the internet, and try again",
        code="hub-offline",
    )


def _paths_in(value: Any) -> list[str]:
    """Texts that are places on a machine."""
    if isinstance(value, str):
        return [value] if value.startswith(("/", "~/", "\\\\")) or value[1:3] in (":\\", ":/") else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [path for item in items for path in _paths_in(item)]
