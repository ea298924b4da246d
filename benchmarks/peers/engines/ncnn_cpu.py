"""ncnn: the traced module converted by pnnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ("ncnn", "pnnx", "torch", "numpy")
PEERS = {"ncnn": "ncnn through pnnx"}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Trace one clip and convert it, with two lengths so that frames stay open."""
    import pnnx
    import torch
    from notebook_module import module_from

    class Positions(torch.nn.Module):
        """The same sum; pnnx takes the first of the notebook's table (300, 1, 108) for the batch."""

        def __init__(self, table: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("pe", table.transpose(0, 1).contiguous())

        def forward(self, tokens_NSE: torch.Tensor) -> torch.Tensor:
            return tokens_NSE + self.pe[:, : tokens_NSE.shape[1]]

    module = module_from(folder)
    module.positional_encoding = Positions(module.positional_encoding.pe)
    lengths = torch.zeros(1, 60, 108), torch.zeros(1, 30, 108)
    pnnx.export(module, str(made / "notebook.pt"), *lengths, fp16=False)
    if not (made / "notebook.ncnn.param").is_file():
        raise RuntimeError("pnnx wrote no ncnn file")


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the network; clips go in one by one, as ncnn has no batches."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(made / "notebook.ncnn.param")) or net.load_model(str(made / "notebook.ncnn.bin")):
        raise RuntimeError("ncnn does not load what pnnx wrote")

    def one(poses_TD: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(poses_TD).clone())
        failed, logits = extractor.extract("out0")
        if failed:
            raise RuntimeError(f"ncnn's extract returns {failed}")
        return np.array(logits).reshape(-1)

    return lambda poses_NTD: np.stack([one(poses_TD) for poses_TD in poses_NTD])
