"""A site of the small bundle, a server for it, one browser; skipped where a part is absent."""

from __future__ import annotations

import shutil

import filelock
import pytest

from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import DataError
from spoter_runtime.files import cache_folder
from spoter_toolkit.web.browser import Browser, find_browser
from spoter_toolkit.web.engine import VERSION, engine_files, fetch_engine, find_engine
from spoter_toolkit.web.server import FileServer
from spoter_toolkit.web.site import write_site


@pytest.fixture(scope="session")
def engine():
    """The browser's engine, which npm downloads once into the user's cache."""
    folder = cache_folder() / "tests" / f"onnxruntime-web-{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        try:
            if not all((folder / name).is_file() for name in engine_files(webgpu=True)):
                fetch_engine(folder)
        except DataError as error:
            pytest.skip(f"the browser's engine cannot be had here: {error.message}")
    return find_engine(str(folder))


@pytest.fixture(scope="session")
def chromium():
    try:
        find_browser()
    except DataError as error:
        pytest.skip(f"{error.message}: nothing to look at the page with")


@pytest.fixture(scope="session")
def site(tmp_path_factory, exported, engine):
    """The small bundle's site, without a landmarker; not to be changed."""
    folder = tmp_path_factory.mktemp("web") / "site"
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder.parent / "no-landmarker-here"))
    report = write_site(exported.bundle, folder, engine)
    patch.undo()
    assert report.camera_bytes is None
    return folder


@pytest.fixture(scope="session")
def server(site):
    with FileServer(site) as server:
        yield server


@pytest.fixture(scope="session")
def site_with_landmarker(tmp_path_factory, exported, engine, landmarker_folder, chromium):
    """Return a function that writes a site of the small bundle with a landmarker and both engines."""

    def write():
        folder = tmp_path_factory.mktemp("camera")
        (folder / "spoter-kit").mkdir()
        (folder / "spoter-kit" / "landmarker").symlink_to(landmarker_folder)
        with pytest.MonkeyPatch().context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder))
            return write_site(exported.bundle, folder / "site", engine, webgpu=True)

    return write


@pytest.fixture(scope="session")
def browser(chromium):
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """A page of the site's place that runs nothing yet."""
    return browser.page(f"{server.url}site.json")


@pytest.fixture
def bundle_at(site, server):
    """Return bundle_at(name): a copy of the bundle to be damaged, and its address."""
    made = []

    def bundle_at(name):
        folder = site / name
        shutil.copytree(site / "bundle", folder)
        made.append(folder)
        return folder, f"{server.url}{name}/"

    yield bundle_at
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def bundle(bundle_folder):
    return read_bundle(bundle_folder)
