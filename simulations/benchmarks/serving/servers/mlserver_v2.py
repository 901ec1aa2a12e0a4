"""A model in MLServer, which batches by itself, behind the Open Inference Protocol over HTTP.

Only what MLServer's own Python has is imported here: it may be another one than the suite's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from simulations.benchmarks.in_process import InProcess


class OnnxModel(MLModel):
    """An ONNX file with one input."""

    async def load(self) -> bool:
        """Make the session."""
        self._own = InProcess(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run what MLServer put together."""
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        outputs = zip(self._own.outputs, self._own.run(rows), strict=True)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name, value) for name, value in outputs]
        )
