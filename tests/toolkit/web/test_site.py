"""The site as files: all is there, nothing leads elsewhere, the scripts are built from these sources."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from spoter_runtime.errors import BundleError, DataError
from spoter_runtime.files import cache_folder
from spoter_runtime.landmarks import BONES, COORDINATE_LIMIT
from spoter_runtime.live.settings import StreamSettings
from spoter_runtime.model_file.check import OPERATORS
from spoter_runtime.verify import verify_bundle
from spoter_toolkit.web.engine import FILES, WASM, find_engine
from spoter_toolkit.web.site import write_site

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "runtime" / "web"
PAGE = ROOT / "toolkit" / "spoter_toolkit" / "web" / "page"


def test_the_site_holds_the_bundle_whole_and_all_that_the_page_needs(site):
    assert verify_bundle(site / "bundle").passed
    kept = json.loads(re.match(r"self\.SITE = (.+);\n", (site / "sw.js").read_text())[1])["files"]
    assert kept[0] == "./"
    assert all((site / name).is_file() for name in kept[1:])
    assert not any("jspi" in path.name for path in (site / "engine").iterdir())  # --webgpu was not asked for
    assert {"index.html", "bundle/model.ort.onnx", "bundle/goldens.npz", f"engine/{WASM}.gz"} <= set(kept)
    wasm = gzip.decompress((site / "engine" / f"{WASM}.gz").read_bytes())
    assert hashlib.sha256(wasm).hexdigest() == FILES[WASM]


def test_the_page_forbids_itself_every_other_host(site):
    html = (site / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    allowed = {"'self'", "'none'", "blob:", "'wasm-unsafe-eval'"}
    assert {word for words in rules.values() for word in words.split()} <= allowed
    assert rules["connect-src"] == "'self'"
    ours = [path for path in site.iterdir() if path.suffix in (".html", ".js", ".css", ".webmanifest")]
    assert len(ours) >= 6
    for path in ours:
        assert not re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", path.read_text(encoding="utf-8")), path.name


def test_a_folder_that_is_no_site_is_not_overwritten(exported, engine, site, tmp_path):
    with pytest.raises(
        DataError, match=r"exists already\. Fix: choose another -o, or replace it with --force"
    ):
        write_site(exported.bundle, site, engine)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(DataError, match="is no site of spoter-kit"):
        write_site(exported.bundle, tmp_path / "mine", engine, force=True)
    with pytest.raises(BundleError, match="has no int8 ONNX file"):
        write_site(exported.bundle, tmp_path / "site", engine, precision="int8")


def test_an_engine_that_is_another_one_or_absent_is_refused(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"the browser engine: no ort\.wasm.*--engine npm, which"):
        find_engine()
    with pytest.raises(DataError, match="nowhere: no ort"):
        find_engine("nowhere")
    copy = shutil.copytree(engine, tmp_path / "package" / "dist")
    assert find_engine(str(copy.parent)) == copy
    (copy / WASM).write_bytes(b"\0asm")
    with pytest.raises(BundleError, match=f"{WASM}: is not the one of onnxruntime-web@"):
        find_engine(str(copy.parent))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"npm is not installed\. Fix: install Node"):
        find_engine("npm")
    assert not (cache_folder() / "onnxruntime-web").exists()


def sources_hash():
    """As build.mjs computes it."""
    names = sorted(path.relative_to(SOURCES / "src").as_posix() for path in SOURCES.rglob("src/**/*.ts"))
    digest = hashlib.sha256()
    for path in (
        *(SOURCES / "src" / name for name in names),
        SOURCES / "package.json",
        SOURCES / "build.mjs",
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", ["app.js", "worker.js", "spoter.js", "sw.js"])
def test_a_built_script_is_of_these_sources(name):
    built = (PAGE / name).read_text(encoding="utf-8")
    assert f"Built from sources {sources_hash()} " in built, "cd runtime/web && npm ci && npm run build"


@pytest.mark.slow
def test_the_sources_have_right_types_and_give_the_same_scripts(tmp_path):
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("no Node.js to build the scripts with")
    copy = shutil.copytree(SOURCES, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules", "dist"))
    ready = subprocess.run(["npm", "ci", "--silent"], cwd=copy, capture_output=True, text=True, check=False)
    if ready.returncode:
        pytest.skip(f"npm cannot get the build tools: {ready.stderr.strip()[-200:]}")
    for command in (["node", "build.mjs", str(tmp_path / "page")], ["npx", "tsc"]):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (copy / "dist" / "types" / "index.d.ts").is_file()
    assert "Recognizer" in (copy / "dist" / "index.js").read_text(encoding="utf-8")
    for name in ("app.js", "worker.js", "spoter.js", "sw.js"):
        assert (tmp_path / "page" / name).read_bytes() == (PAGE / name).read_bytes()


def test_the_lists_and_defaults_are_those_of_python():
    check = (SOURCES / "src" / "bundle" / "model_file.ts").read_text(encoding="utf-8")
    for name, domain in (("STANDARD", ""), ("MICROSOFT", "com.microsoft")):
        assert set(re.search(rf"const {name} = `([^`]+)`", check)[1].split()) == OPERATORS[domain]
    settings = (SOURCES / "src" / "live" / "settings.ts").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^  (\w+): ([-.\d]+|\"\w+\")", settings.partition("DEFAULTS = {")[2], re.M))
    expected = {name: json.dumps(value) for name, value in StreamSettings().as_json().items()}
    assert {name: float(text) if text[0] != '"' else text for name, text in stated.items()} == {
        name: float(text) if text[0] != '"' else text for name, text in expected.items()
    }
    assert len(BONES) == 10 + 2 * 20
    assert f"COORDINATE_LIMIT = {COORDINATE_LIMIT:g}".replace("10000", "1e4") in (
        SOURCES / "src" / "landmarks.ts"
    ).read_text(encoding="utf-8")
