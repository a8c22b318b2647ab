"""`terrazzo check-weights`."""

from __future__ import annotations

from pathlib import Path

from terrazzo.cli.say import say

__all__ = ["check_weights"]


def check_weights(weights: str, /, *, photo: Path, name: str | None = None) -> None:
    """Compare NVIDIA's SegFormer weights, as Terrazzo runs them, with logits that were published for them.

    The photo is number 000000039769 of COCO val2017, from images.cocodataset.org. The exit status is 0 where the logits
    agree within the published tolerance of 0.01, and 2 where they do not.

    Examples:
        terrazzo check-weights segformer.b2.512x512.ade.160k.pth --photo cats.jpg

    Parameters
    ----------
    weights
        Read this checkpoint file, model folder or hub id.
    photo
        Read this photo.
    name
        Take them for these published weights, such as segformer.b0.512x512.ade.160k, where their own name does not say
        which they are.
    """
    from terrazzo.weights.check_weights import check_weights as compare

    found = compare(weights, photo, name=name)
    verdict = "agrees with" if found.agrees else "DIFFERS from"
    say(
        f"{found.weights}: {verdict} the published logits; largest difference of {found.values} values "
        f"{found.difference:.4f}, tolerance {found.tolerance:g}"
    )
    if not found.agrees:
        raise SystemExit(2)
