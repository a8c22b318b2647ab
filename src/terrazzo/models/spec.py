"""ModelSpec: what a network is, in plain values.

An encoder, a decoder and heads for auxiliary losses are each the name of a row in a table and the arguments of its
class (`encoders.ENCODERS`, `decoders.DECODERS`, `decoders.AUXILIARY_HEADS`). A spec is complete: arguments that are not
given are filled in with the class's defaults, so that what is stored does not change when a default does.

`build.py` makes the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeAlias

from terrazzo.errors import ConfigError
from terrazzo.fields import Within, as_plain, fields_of, read_value, refuse_missing, refuse_unknown, required
from terrazzo.models.decoders import AUXILIARY_HEADS, DECODERS
from terrazzo.models.encoders import ENCODERS
from terrazzo.models.sizes import LARGEST, LIMITS, Size
from terrazzo.text import printable, show

__all__ = ["ModelSpec", "Part"]

MOST_CLASSES = 65_535  # a mask of 16 bits stores no more
MOST_HEADS = 64
FIX = "correct the description of the model"
FROM_SPEC = frozenset({"in_channels", "image_size", "maps", "channels", "strides", "num_classes"})
"""Arguments of a class that are not fields of its part."""

ImageSize: TypeAlias = Annotated[tuple[int, int], Within(at_least=1, at_most=LARGEST)]


@dataclass(frozen=True)
class Part:
    """A row of a table and the arguments of its class.

    Attributes:
        name: of the row.
        fields: arguments, in JSON's types; a list may be a tuple.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return `name` and the fields beside it."""
        return {"name": self.name, **as_plain(self.fields)}

    @classmethod
    def from_dict(cls, document: object, where: str) -> Part:
        """Read `to_dict`'s form.

        Raises:
            ConfigError: it is not a mapping with a name. Fields are checked by the spec.
        """
        if not isinstance(document, Mapping) or not isinstance(document.get("name"), str):
            raise _wrong(f"{where} must be a mapping with a name, not {show(document)}")
        return cls(document["name"], {str(key): value for key, value in document.items() if key != "name"})


@dataclass(frozen=True)
class ModelSpec:
    """What a network is.

    Attributes:
        encoder: a row of `ENCODERS` and its fields.
        decoder: a row of `DECODERS` and its fields.
        num_classes: K, at least 2 (background counts as a class).
        auxiliary: rows of `AUXILIARY_HEADS` and their fields.
        in_channels: bands of the images.
        image_size: (H, W) that learned position embeddings are made for; None where the encoder has none.
        name: such as ``segformer_b0``; None for a network without one.

    Raises:
        ConfigError: a row or a field is unknown, or a value is of the wrong type or out of bounds.
    """

    encoder: Part
    decoder: Part
    num_classes: int = 2
    auxiliary: tuple[Part, ...] = ()
    in_channels: int = 3
    image_size: tuple[int, int] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if type(self.num_classes) is not int or not 2 <= self.num_classes <= MOST_CLASSES:
            raise ConfigError(
                f"{self.title} cannot be built for {show(self.num_classes)} class(es)",
                fix=f"give a whole number from 2 to {MOST_CLASSES}; the background is a class of its own, so one kind "
                "of object makes two",
                code="model-classes",
            )
        in_channels = read_value(self.in_channels, Size, "in_channels", code="spec-value")
        size = self.image_size
        name = read_value(self.name, str | None, "the name of a model", code="spec-value")
        if len(self.auxiliary) > MOST_HEADS:
            raise _wrong(f"there are {len(self.auxiliary)} auxiliary heads, and at most {MOST_HEADS} can be")
        decoder = self.decoder
        if decoder.name in DECODERS:
            decoder = Part(decoder.name, {**DECODERS[decoder.name].fields, **decoder.fields})
        encoder = _complete(self.encoder, {name: row.module for name, row in ENCODERS.items()}, "encoder")
        decoder = _complete(decoder, {name: row.module for name, row in DECODERS.items()}, "decoder")
        heads = tuple(_complete(head, AUXILIARY_HEADS, "auxiliary head") for head in self.auxiliary)
        if not _has_positions(encoder):
            size = None
        elif size is None:
            size = fields_of(ENCODERS[encoder.name].module)["image_size"].default
        else:
            size = read_value(size, ImageSize, "image_size", code="spec-value")
        parts = {"encoder": encoder, "decoder": decoder, "auxiliary": heads}
        for key, value in {**parts, "in_channels": in_channels, "image_size": size, "name": name}.items():
            object.__setattr__(self, key, value)

    @property
    def title(self) -> str:
        """Its name, or those of its encoder and its decoder."""
        return self.name or f"{self.encoder.name}+{self.decoder.name}"

    def adapted(
        self,
        num_classes: int,
        *,
        image_size: tuple[int, int] | None = None,
        in_channels: int | None = None,
        drop_path_rate: float | None = None,
    ) -> ModelSpec:
        """Return the same network for other classes, images or bands, or with another stochastic depth.

        What is None stays as it is. An encoder without position embeddings ignores `image_size`, one without
        stochastic depth `drop_path_rate`.
        """
        encoder = self.encoder
        if drop_path_rate is not None and "drop_path_rate" in encoder.fields:
            encoder = Part(encoder.name, {**encoder.fields, "drop_path_rate": drop_path_rate})
        return replace(
            self,
            encoder=encoder,
            num_classes=num_classes,
            image_size=image_size or self.image_size,
            in_channels=self.in_channels if in_channels is None else in_channels,
        )

    def with_encoder(self, **changes: Any) -> ModelSpec:
        """Return the spec with some fields of the encoder changed, without a name."""
        return replace(self, encoder=Part(self.encoder.name, {**self.encoder.fields, **changes}), name=None)

    def with_decoder(self, **changes: Any) -> ModelSpec:
        """Return the spec with some fields of the decoder changed, without a name."""
        return replace(self, decoder=Part(self.decoder.name, {**self.decoder.fields, **changes}), name=None)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types, complete."""
        return {
            "name": self.name,
            "encoder": self.encoder.to_dict(),
            "decoder": self.decoder.to_dict(),
            "auxiliary": [head.to_dict() for head in self.auxiliary],
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "image_size": None if self.image_size is None else list(self.image_size),
        }

    @classmethod
    def from_dict(cls, document: object) -> ModelSpec:
        """Read `to_dict`'s form; fields that are left out have their defaults.

        Raises:
            ConfigError: as the class, and for keys that are unknown.
        """
        if not isinstance(document, Mapping) or not {"encoder", "decoder", "num_classes"} <= document.keys():
            raise _wrong(f"a model needs an encoder, a decoder and num_classes; this is {show(document)}")
        refuse_unknown(document, fields_of(cls), "a model", code="spec-name")
        heads = document.get("auxiliary", [])
        if isinstance(heads, str) or not isinstance(heads, Sequence):
            raise _wrong(f"auxiliary must be a list of heads, not {show(heads)}")
        return cls(
            encoder=Part.from_dict(document["encoder"], "the encoder"),
            decoder=Part.from_dict(document["decoder"], "the decoder"),
            num_classes=document["num_classes"],
            auxiliary=tuple(Part.from_dict(head, "an auxiliary head") for head in heads[: MOST_HEADS + 1]),
            in_channels=document.get("in_channels", 3),
            image_size=read_value(document.get("image_size"), tuple[int, ...] | None, "image_size", code="spec-value"),
            name=document.get("name"),
        )


def _complete(part: Part, table: Mapping[str, Callable[..., Any]], what: str) -> Part:
    refuse_unknown([part.name], table, "a model", what=what, code="spec-name")
    module, where = table[part.name], f"{what} {part.name}"
    known = {key: one for key, one in fields_of(module).items() if key not in FROM_SPEC}
    refuse_unknown(part.fields, known, where, code="spec-name")
    refuse_missing(part.fields, [key for key in required(module) if key in known], where, fix=FIX, code="spec-value")
    given = {
        key: read_value(value, known[key].hint, f"{where}: {key}", code="spec-value", limits=LIMITS)
        for key, value in part.fields.items()
    }
    return Part(part.name, {key: given.get(key, one.default) for key, one in known.items()})


def _has_positions(encoder: Part) -> bool:
    """Whether an encoder learns embeddings of positions: one that can do without says so by a field."""
    return "image_size" in fields_of(ENCODERS[encoder.name].module) and bool(encoder.fields.get("positions", True))


def _wrong(message: str) -> ConfigError:
    return ConfigError(printable(message), fix=FIX, code="spec-value")
