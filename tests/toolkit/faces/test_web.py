"""The face `web`: parity compares a real browser like a backend."""

from __future__ import annotations

import pytest

from spoter_export.torch_runner import TorchRunner
from spoter_runtime.errors import DataError
from spoter_runtime.files import cache_folder
from spoter_toolkit.faces.face import open_face
from spoter_toolkit.parity.prove import prove_backends
from spoter_toolkit.web.browser import find_browser
from spoter_toolkit.web.engine import VERSION


@pytest.mark.slow
def test_parity_holds_in_a_browser(exported, small_model, contract, tmp_path, monkeypatch):
    engine = cache_folder() / "tests" / f"onnxruntime-web-{VERSION}"
    if not engine.is_dir():
        pytest.skip("no browser engine: the tests of the site fetch it")
    try:
        find_browser()
    except DataError as error:
        pytest.skip(error.message)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "spoter-kit").mkdir()
    (tmp_path / "spoter-kit" / engine.name).symlink_to(engine)
    (proof,), *_ = prove_backends(exported.bundle, TorchRunner(small_model, contract), None, ["face-web"])
    assert proof.verdict.passed
    assert proof.face == "web"
    assert proof.facts.max_logit_diff < 1e-4


def test_without_an_engine_the_fix_is_named(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"the browser engine: no ort.*--engine npm, which downloads it"):
        open_face("face-web", exported.bundle)
