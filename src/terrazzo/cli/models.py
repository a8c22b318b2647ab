"""`terrazzo models`."""

from __future__ import annotations

from terrazzo.weights.catalog import bundled_names, bundled_record

__all__ = ["models"]


def models() -> None:
    """List the models: those that ship with their weights first, then the architectures that can be trained.

    Examples:
        terrazzo models
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shipped = Table(
        "name",
        "classes",
        "val mIoU",
        "licence of the weights",
        title="shipped with their weights",
        title_justify="left",
    )
    for name in bundled_names():
        config = bundled_record(name)
        record = config["record"]
        shipped.add_row(
            name, str(len(config["labels"]["names"])), str(record.get("val_mIoU", "-")), str(record.get("licence", "-"))
        )
    console.print(shipped)

    import torch

    from terrazzo.models import create_model, list_models

    families = Table(
        "name", "parameters at 19 classes", title="architectures, for `terrazzo train --model`", title_justify="left"
    )
    for name in list_models():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in create_model(name, 19).parameters())
        families.add_row(name, f"{count / 1e6:.2f} M")
    console.print(families)
