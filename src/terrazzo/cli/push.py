"""`terrazzo push`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.say import say

__all__ = ["push"]


def push(
    model: str,
    repo: str,
    /,
    *,
    to: Literal["terrazzo", "hf"] = "terrazzo",
    private: Annotated[bool, Parameter(negative=())] = False,
    report: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Send a model to the Hugging Face hub: weights, configuration and model card.

    Log in first, with `hf auth login` or a token in HF_TOKEN. The licence, data and scores of the card come from the
    run; read it before others do: RUN/model/README.md.

    Examples:
        terrazzo push runs/mine me/street-model --dry-run
        terrazzo push runs/mine me/street-model --private
        terrazzo push runs/mine me/street-model --to hf

    Parameters
    ----------
    model
        Send the model of this training run, or a model folder, checkpoint or shipped model.
    repo
        Send it to this repository, OWNER/NAME, which is created where it is not there.
    to
        Send a folder for terrazzo, or with hf for Hugging Face transformers (SegFormer only).
    private
        Create the repository so that only its owners see it.
    report
        Send the run's report.html too. It shows photos of the data set.
    overwrite
        Replace the model of a repository that holds one; the hub keeps the earlier version.
    dry_run
        Send nothing: list what would be sent.
    """
    from terrazzo.weights.push import push as send

    pushed = send(model, repo, to=to, private=private, report=report, overwrite=overwrite, dry_run=dry_run)
    say(f"{'would be sent' if pushed.address is None else 'sent'} to {repo}:")
    say(*(f"  {name}  {size:,} bytes" for name, size in pushed.files.items()))
    if pushed.address is not None:
        say(pushed.address)
