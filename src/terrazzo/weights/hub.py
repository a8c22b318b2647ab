"""Downloads models from the Hugging Face hub, or finds them in its cache where there is no network."""

from __future__ import annotations

from pathlib import Path

from terrazzo.errors import CheckpointError
from terrazzo.text import said_by

__all__ = ["download"]

DESCRIBED = (
    "config.json", "preprocessor_config.json", "processor_config.json", "adapter_config.json", "README.md",
    "LICENSE*", "LICENCE*", "*.safetensors", "*.safetensors.index.json",
)  # fmt: skip
SAFE = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


def download(model: str) -> Path:
    """Return the folder of a model of the hub, from the cache if it is there.

    Args:
        model: OWNER/NAME, or OWNER/NAME@REVISION.

    Raises:
        CheckpointError: the hub cannot be reached and the cache does not have it, there is no such model, or it may not
            be had without asking for it.
    """
    from huggingface_hub import constants, errors, snapshot_download

    name, _, revision = model.partition("@")
    cache = constants.HF_HUB_CACHE
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(DESCRIBED)))
        if not any((folder / file).is_file() for file in SAFE):
            snapshot_download(name, revision=revision or None, allow_patterns=list(PICKLED))
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"there is no path {model}; as a model of the Hugging Face hub it is not in the cache at {cache}, "
            "and the hub cannot be reached",
            fix="check the path; or connect to the internet once, or copy the cache from a machine that has it",
            code="hub-offline",
        ) from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{model} is given only to those who accept its terms",
            fix="accept them on its page of the hub, then log in with: hf auth login",
            code="hub-gated",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"there is no path {model}, and the Hugging Face hub has no such model",
            fix="check the path or the name; for a private model log in with: hf auth login",
            code="hub-missing",
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{model} could not be fetched from the hub: {said_by(error, 200)}",
            fix=f"try again; what was fetched so far is kept in {cache}",
            code="hub-failed",
        ) from error
    return folder
