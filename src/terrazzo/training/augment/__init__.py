"""Training augmentation: one file for each row of a recipe's `augment`, and the table of them.

The papers' steps in the papers' order (SegFormer section 4.1, SETR section 4.1) are resize, crop, flip, photometric
distortion and padding to the crop; the details are those of both papers' code. The others are off in the papers'
recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from terrazzo.training.augment.affine import RandomAffine
from terrazzo.training.augment.blur import RandomBlur
from terrazzo.training.augment.classmix import ClassMix
from terrazzo.training.augment.copy_paste import CopyPaste
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.cutmix import CutMix
from terrazzo.training.augment.erasing import RandomErasing
from terrazzo.training.augment.flip import RandomFlip
from terrazzo.training.augment.gamma import RandomGamma
from terrazzo.training.augment.gray import RandomGray
from terrazzo.training.augment.photometric import PhotometricDistortion
from terrazzo.training.augment.quarter_turn import RandomQuarterTurn
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.augment.rotate import RandomRotate
from terrazzo.training.augment.step import Augmentation, Context, Step

__all__ = ["AUGMENTATIONS", "Augmentation", "Context", "Step"]

AUGMENTATIONS: Mapping[str, type[Step]] = MappingProxyType(
    {
        "resize": RandomResize,
        "copy_paste": CopyPaste,
        "quarter_turn": RandomQuarterTurn,
        "rotate": RandomRotate,
        "affine": RandomAffine,
        "crop": RandomCrop,
        "flip": RandomFlip,
        "photometric": PhotometricDistortion,
        "gamma": RandomGamma,
        "gray": RandomGray,
        "blur": RandomBlur,
        "erasing": RandomErasing,
        "cutmix": CutMix,
        "classmix": ClassMix,
    }
)
"""Every row that `augment` may have, in the order in which they are usually applied."""
