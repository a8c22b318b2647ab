"""Int8 for OpenVINO files, by NNCF, which the extra ``quant`` installs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.offline import imported_silently
from terrazzo.errors import MissingExtraError

__all__ = ["OpenVINOQuantiser"]

KEPT = ["GroupConvolution", "MVN", "Softmax"]
"""OpenVINO's operations that stay in float32.

For the shipped model this matters little; NNCF's settings for transformers are what keeps its accuracy.
"""


@dataclass(frozen=True)
class OpenVINOQuantiser:
    """A `terrazzo.exports.int8.Quantiser` for an `openvino.Model`. Names are its operations' friendly names.

    Attributes:
        exact: the model in float32.
        inputs: images to calibrate with.
    """

    exact: Any
    inputs: Sequence[NDArray[np.float32]]

    def quantised(self, kept: Sequence[str] = ()) -> Any:
        """Return the model in int8, except for the layers `kept`.

        Raises:
            MissingExtraError: nncf is not installed.
        """
        try:
            nncf = imported_silently("nncf")
        except ImportError as error:
            raise MissingExtraError("nncf", "quant") from error
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nncf warns about its own dependencies
            return nncf.quantize(
                self.exact,
                nncf.Dataset(self.inputs),
                subset_size=len(self.inputs),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(types=KEPT, names=list(kept), validate=False),
            )

    def layers(self, network: Any) -> dict[str, str]:
        """Return the matrix products and convolutions with int8 weights, each with the name of its input."""
        operations = {operation.get_friendly_name(): operation for operation in self.exact.get_ops()}
        return {
            name: operations[name].input_value(0).get_node().get_friendly_name()
            for operation in network.get_ops()
            if operation.get_type_name() in ("MatMul", "Convolution")
            and operation.input_value(1).get_node().get_type_name() == "Multiply"  # integers, times their scale
            and (name := operation.get_friendly_name()) in operations
        }

    def results(
        self, network: Any, names: Sequence[str], inputs: Sequence[NDArray[np.float32]]
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield, for each input, the outputs of these operations in a network."""
        import openvino as ov

        probed = network.clone()
        operations = {operation.get_friendly_name(): operation for operation in probed.get_ops()}
        probed.add_outputs([operations[name].output(0) for name in names])  # behind the logits
        compiled = ov.compile_model(probed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for images in inputs:
            results = compiled([images])
            yield [np.array(results[1 + number]) for number in range(len(names))]
