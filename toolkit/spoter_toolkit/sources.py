"""Open what a user names, a RUN or a BUNDLE, together with the data it belongs to."""

from __future__ import annotations

import logging
from pathlib import Path

from spoter_runtime.backends import open_runner
from spoter_runtime.bundle.manifest import MANIFEST, Bundle, read_bundle
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.runner import Runner
from spoter_toolkit.backends import open_backend
from spoter_toolkit.data.dataset import Dataset, read_dataset

_log = logging.getLogger(__name__)


def _best(bundle: Bundle) -> Runner:
    opened = open_runner(bundle)
    for name, why in opened.passed_over(bundle).items():
        _log.warning("passed over: %s: %s", name, why)
    return opened.runner


def open_source(
    path: Path, *, backend: str | None, run: Path | None, data: Path | None
) -> tuple[Runner, Dataset]:
    """Return a runner for a RUN or a BUNDLE, and the dataset to run it on.

    Args:
        path: a RUN or a BUNDLE folder.
        backend: see `spoter_toolkit.backends`; None is torch for a RUN and the best for a BUNDLE.
        run: for a BUNDLE, the RUN it was made from; None looks in ``runs/``.
        data: a DATASET; None for the one that the run was trained on.

    Raises:
        ConfigError: a backend that a RUN has not.
        DataError: no data is given, and that of the training is not there.
        SpoterError: the source itself cannot be opened.
    """
    from spoter_export.torch_runner import TorchRunner
    from spoter_toolkit.runs.run import find_run, read_run

    if (path / MANIFEST).is_file():
        bundle = read_bundle(path)
        runner = open_backend(backend, bundle, run=run).runner if backend else _best(bundle)
        dataset = read_dataset(data) if data else find_run(bundle, run).training_data()
    else:
        source = read_run(path)
        if backend not in (None, "torch"):
            raise ConfigError(
                f"{path}: a RUN runs on torch; {backend} needs a BUNDLE", fix="spoter-kit export"
            )
        runner = TorchRunner(source.load_model(), source.contract())
        dataset = read_dataset(data) if data else source.training_data()
    if dataset is None:
        raise DataError(f"{path}: the data it was trained on is not there", fix="name a dataset with --data")
    return runner, dataset
