"""WebGPU in a real browser, on an adapter in software: taken where it is proven, else left with a reason."""

from __future__ import annotations

import hashlib
import shutil
from datetime import datetime, timezone

import numpy as np
import pytest

from other_tensors import other_tensors
from spoter_runtime import Recognizer
from spoter_runtime.errors import BackendError
from spoter_toolkit.web.browser import Browser
from spoter_toolkit.web.engine import WEBGPU_WASM
from spoter_toolkit.web.server import FileServer

pytestmark = pytest.mark.slow

ADAPTER = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
LOAD = """(async () => {
  globalThis.spoter = await import("/spoter.js");
  const { packed, engine: { hashes } } = await (await fetch("/site.json")).json();
  globalThis.load = (backend, url = "/bundle/", worker = "/worker.js") =>
    spoter.Recognizer.load(url, { packed, hashes, backend, worker });
})()"""


@pytest.fixture(scope="module")
def gpu_site(site_with_landmarker):
    """The small bundle's site with a landmarker and the engine for WebGPU, served."""
    report = site_with_landmarker()
    assert 3e6 < report.webgpu_bytes < 6e6
    with FileServer(report.folder) as server:
        yield server


@pytest.fixture(scope="module")
def on_gpu(gpu_site):
    """A page with `load`, in a browser that has an adapter."""
    with Browser(*ADAPTER) as browser:
        page = browser.page(f"{gpu_site.url}site.json")
        if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium gives no WebGPU adapter in software")
        page.evaluate(LOAD)
        yield page


@pytest.fixture
def bundle_at(gpu_site, plant, reseal):
    """Return bundle_at(name, model, error): a copy with one golden, off by an error, and its address."""

    def bundle_at(name, model=None, error=0.0):
        folder = gpu_site.folder / name
        shutil.copytree(gpu_site.folder / "bundle", folder)
        if model:
            plant(folder, model)
            reseal(folder, lambda manifest: manifest.update(artefacts=manifest["artefacts"][:1]))
        goldens = dict(np.load(folder / "goldens.npz"))
        few = {key: value[-1:] for key, value in goldens.items()}
        if model:
            runner = Recognizer.load(folder, "ort-cpu", tuned=False).runner
            few["poses"] = np.nan_to_num(few["poses"])
            clips = [poses[None, :length] for poses, length in zip(few["poses"], few["lengths"], strict=True)]
            few["logits"] = np.concatenate([runner.infer(clip) for clip in clips]) + np.float32(error)
        np.savez(folder / "goldens.npz", **few)
        digest = hashlib.sha256((folder / "goldens.npz").read_bytes()).hexdigest()
        reseal(folder, lambda manifest: manifest["files"].update({"goldens.npz": digest}))
        return folder, f"/{name}/"

    return bundle_at


def test_webgpu_gives_the_answers_of_python(on_gpu, bundle_at, make_clip):
    folder, url = bundle_at("few")
    python = Recognizer.load(folder, "ort-cpu", tuned=False)
    found = on_gpu.evaluate(
        f"load('webgpu', '{url}').then((r) => [(globalThis.recognizer = r).backend, r.why])"
    )
    assert found == ["webgpu", {"webgpu": "asked for"}]
    for seed, frames in enumerate((1, 44)):
        clip = make_clip(seed, frames)
        numbers = np.nan_to_num(clip).ravel().tolist()
        found = on_gpu.evaluate(f"recognizer.logits(Float32Array.from({numbers})).then(Array.from)")
        np.testing.assert_allclose(found, python.predict(clip).logits_C, atol=1e-4)


@pytest.fixture
def measuring(gpu_site, on_gpu):
    """Return measuring(url): backend and why of "auto", in a worker that takes the adapter for a GPU."""
    get = "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });"
    (gpu_site.folder / "patch.js").write_text(get)
    (gpu_site.folder / "patched.js").write_text("import './patch.js'; import './worker.js';")

    def measuring(url):
        return on_gpu.evaluate(f"load('auto', '{url}', '/patched.js').then((r) => [r.backend, r.why.webgpu])")

    return measuring


def test_it_is_left_where_it_is_slower_or_wrong(on_gpu, measuring, bundle_at, contract):
    model = other_tensors(contract)["right"][0].SerializeToString()  # two operators
    _, url = bundle_at("right", model)
    found = on_gpu.evaluate(f"load('auto', '{url}').then((r) => [r.backend, r.why.webgpu])")
    assert found == ["wasm", "WebGPU runs in software here, not on a GPU"]
    found = measuring(url)
    assert found[0] == "wasm"
    assert found[1].startswith("WebGPU is not faster here: the stored answers take ")
    _, url = bundle_at("wrong", model, 1e-3)
    found = on_gpu.evaluate(f"load('webgpu', '{url}').then((r) => [r.backend, r.why.webgpu])")
    assert found == ["wasm", "WebGPU gives other answers here than the stored ones"]


# Changes the only verdict that the browser keeps.
CHANGE = """(async (change) => {
  const cache = await caches.open("spoter webgpu");
  const [kept] = await cache.keys();
  const verdict = await (await cache.match(kept)).json();
  await cache.put(kept, new Response(JSON.stringify({ ...verdict, ...change })));
})"""


def test_a_verdict_is_kept_for_the_next_visits(on_gpu, gpu_site, measuring, bundle_at, contract):
    def loads_of_the_engine():
        return sum(WEBGPU_WASM in path for path in gpu_site.asked)

    on_gpu.evaluate("caches.delete('spoter webgpu')")
    _, url = bundle_at("kept", other_tensors(contract)["right"][0].SerializeToString())
    backend, why = measuring(url)
    before, today = loads_of_the_engine(), datetime.now(timezone.utc).date().isoformat()
    assert measuring(url) == [backend, f"{why}, measured on {today}"]
    assert loads_of_the_engine() == before  # nothing was tried again
    on_gpu.evaluate(f"{CHANGE}({{ taken: true, why: 'faster' }})")
    assert measuring(url) == ["webgpu", f"faster, measured on {today}"]
    on_gpu.evaluate(f"{CHANGE}({{ at_ms: 0 }})")  # too old
    assert measuring(url)[1].startswith("WebGPU is not faster here: the stored answers take ")
    _, other = bundle_at("other", other_tensors(contract)["right"][0].SerializeToString(), 1e-3)
    assert measuring(other)[1] == "WebGPU gives other answers here than the stored ones"
    assert measuring(other)[1].endswith(f"the stored ones, measured on {today}")


def test_without_an_adapter_or_the_engine_s_files_wasm_answers_with_the_reason(browser, gpu_site, on_gpu):
    page = browser.page(f"{gpu_site.url}site.json")
    page.evaluate(LOAD)
    backend, why = page.evaluate("load('webgpu').then((r) => [r.backend, r.why.webgpu])")
    assert backend == "wasm"
    assert why in ("this browser has no WebGPU", "WebGPU finds no GPU here that it may use")
    with pytest.raises(BackendError, match="backend='cuda': expected 'wasm', 'webgpu' or 'auto'"):
        page.evaluate("load('cuda')")
    (gpu_site.folder / "engine" / f"{WEBGPU_WASM}.gz").rename(gpu_site.folder / "elsewhere")
    backend, why = on_gpu.evaluate("load('webgpu').then((r) => [r.backend, r.why.webgpu])")
    assert backend == "wasm"
    assert why.endswith(f"{WEBGPU_WASM}: is not there. Fix: spoter-kit export BUNDLE --web SITE --webgpu")
