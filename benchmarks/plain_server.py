"""The plainest server one writes by hand: Starlette, one session, one request at a time, binary tensors.

    python benchmarks/plain_server.py model.spoter PORT

It is what `benchmarks/serving.py` compares `spoter-kit serve` with: the same bundle's file for ONNX Runtime, the same
protocol, all cores in each call.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spoter_runtime import Recognizer

RUNNER = Recognizer.load(sys.argv[1], tuned=False).runner


async def infer(request: Request) -> Response:
    """Answer a request for the logits of some clips."""
    body = await request.body()
    length = int(request.headers["inference-header-content-length"])
    poses, lengths = json.loads(body[:length])["inputs"]
    end = length + poses["parameters"]["binary_data_size"]
    logits = RUNNER.infer(
        np.frombuffer(body[length:end], np.float32).reshape(poses["shape"]),
        np.frombuffer(body[end:], np.int32).reshape(lengths["shape"]),
    )
    head = json.dumps(
        {
            "model_name": "plain",
            "outputs": [
                {
                    "name": "logits",
                    "datatype": "FP32",
                    "shape": logits.shape,
                    "parameters": {"binary_data_size": logits.nbytes},
                }
            ],
        }
    ).encode()
    return Response(head + logits.tobytes(), headers={"inference-header-content-length": str(len(head))})


async def index(request: Request) -> Response:
    """Name the one model."""
    return JSONResponse([{"name": "plain", "state": "READY"}])


APP = Starlette(
    routes=[
        Route("/v2/models/plain/infer", infer, methods=["POST"]),
        Route("/v2/repository/index", index, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(APP, port=int(sys.argv[2]), log_level="warning")
