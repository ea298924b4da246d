"""The plainest server one writes by hand: Starlette, one session, one request at a time, binary tensors.

    python benchmarks/plain_server.py model.spoter 8721 [--threads 1]

`benchmarks/serving.py` compares `spoter-kit serve` with it: the same file of the bundle, the same protocol.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spoter_runtime import Recognizer


def application(bundle: str, threads: int | None) -> Starlette:
    """Return an application that answers requests for the logits of clips."""
    runner = Recognizer.load(bundle, threads=threads, tuned=False).runner

    async def infer(request: Request) -> Response:
        body = await request.body()
        length = int(request.headers["inference-header-content-length"])
        poses, _ = json.loads(body[:length])["inputs"]
        end = length + poses["parameters"]["binary_data_size"]
        logits = runner.infer(
            np.frombuffer(body[length:end], np.float32).reshape(poses["shape"]),
            np.frombuffer(body[end:], np.int32),
        )
        output = {"name": "logits", "datatype": "FP32", "shape": logits.shape}
        output["parameters"] = {"binary_data_size": logits.nbytes}
        head = json.dumps({"model_name": "plain", "outputs": [output]}).encode()
        return Response(head + logits.tobytes(), headers={"inference-header-content-length": str(len(head))})

    async def index(request: Request) -> Response:
        return JSONResponse([{"name": "plain", "state": "READY"}])

    return Starlette(
        routes=[
            Route("/v2/models/plain/infer", infer, methods=["POST"]),
            Route("/v2/repository/index", index, methods=["POST"]),
        ]
    )


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, help="in each call; default: one a core")
    options = parser.parse_args()
    uvicorn.run(application(options.bundle, options.threads), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
