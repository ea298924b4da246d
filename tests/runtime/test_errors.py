"""One error tree, and `require`: absent is not the same as broken."""

from __future__ import annotations

import inspect
import pickle
import re
from importlib.metadata import PathDistribution

import pytest

import spoter_runtime.errors as errors
from spoter_runtime.errors import MissingExtraError, SpoterError, is_installed, pip_fix, require, upgrade_fix


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Return modules(name=source): make importable modules of these texts."""

    def modules(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return modules


def test_every_error_is_in_the_tree_and_in_its_drawing():
    found = [
        value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value is not SpoterError
    ]
    assert len(found) >= 8
    assert errors.__doc__ is not None
    for error in found:
        assert issubclass(error, SpoterError)
        assert f"─ {error.__name__} " in errors.__doc__


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("clip 3: 312 frames", "clip 3: 312 frames. Fix: cut it"),
        ("which of the two?", "which of the two? Fix: cut it"),
        ("2 clips:\n  a\n", "2 clips:\n  a\nFix: cut it"),
    ],
)
def test_the_fix_is_a_field_and_ends_the_text(message, expected):
    error = SpoterError(message, fix="cut it")
    assert (error.message, error.fix, str(error)) == (message, "cut it", expected)
    assert str(SpoterError(message)) == message


@pytest.mark.parametrize("kind", [SpoterError, MissingExtraError, errors.InputError, errors.UsageError])
def test_an_error_of_another_process_keeps_its_fix(kind):
    error = pickle.loads(pickle.dumps(kind("no clip", fix="name one")))
    assert (type(error), error.message, error.fix) == (kind, "no clip", "name one")


def test_a_wrong_option_keeps_its_fix():
    with pytest.raises(errors.UsageError) as caught, errors.from_options():
        raise errors.ConfigError("--seed: -1", fix="--seed 0")
    assert (caught.value.message, caught.value.fix) == ("--seed: -1", "--seed 0")


def test_errors_are_also_what_python_calls_them():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_require_returns_the_module(modules):
    modules(spoter_test_present="answer = 42")
    assert require("spoter_test_present", extra="cpu").answer == 42
    assert require("os.path", extra="cpu").sep


@pytest.mark.parametrize(
    "module", ["spoter_test_absent", "spoter_test_absent.deep", "json.spoter_test_absent"]
)
def test_an_absent_module_is_named_with_the_command_that_installs_it(module):
    message = (
        rf"needs the Python module '{module}', which is not installed\. Fix: {re.escape(pip_fix('trt'))}$"
    )
    with pytest.raises(MissingExtraError, match=message) as raised:
        require(module, extra="trt")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_a_broken_module_shows_its_own_error(modules):
    modules(
        spoter_test_broken="raise ImportError('libcudart.so.13: cannot open shared object file')",
        spoter_test_incomplete="import spoter_test_dependency",
        spoter_test_failing="raise RuntimeError('no driver')",
    )
    with pytest.raises(ImportError, match=r"^libcudart.so.13: cannot open shared object file$") as broken:
        require("spoter_test_broken", extra="gpu")
    with pytest.raises(
        ModuleNotFoundError, match=r"^No module named 'spoter_test_dependency'$"
    ) as incomplete:
        require("spoter_test_incomplete", extra="gpu")
    with pytest.raises(RuntimeError, match="no driver"):
        require("spoter_test_failing", extra="gpu")
    for raised in (broken, incomplete):
        assert not isinstance(raised.value, SpoterError)


def test_is_installed_looks_without_importing(modules):
    modules(spoter_test_loud="raise RuntimeError('imported')")
    assert is_installed("spoter_test_loud")
    assert not is_installed("spoter_test_absent")


@pytest.mark.parametrize(
    ("record", "fix", "upgrade"),
    [
        (None, "pip install 'spoter-kit[cpu]'", "pip install --upgrade spoter-kit"),
        (
            '{"url": "file://HERE/a%20clone", "dir_info": {"editable": true}}',
            "pip install -e 'HERE/a clone[cpu]'",
            "git -C 'HERE/a clone' pull",
        ),
        (
            '{"url": "file://HERE/a%20clone", "dir_info": {}}',
            "pip install 'HERE/a clone[cpu]'",
            "git -C 'HERE/a clone' pull && pip install 'HERE/a clone'",
        ),
        (
            '{"url": "file://HERE/kit.whl", "archive_info": {}}',
            "pip install 'HERE/kit.whl[cpu]'",
            "pip install --upgrade HERE/kit.whl",
        ),
        (
            '{"url": "https://a.org/kit.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}',
            "pip install 'spoter-kit[cpu] @ git+https://a.org/kit.git'",
            "pip install --upgrade 'spoter-kit @ git+https://a.org/kit.git'",
        ),
        ('{"url": "file://HERE/gone", "dir_info": {}}', "pip install 'spoter-kit[cpu]'", None),
    ],
)
def test_the_fix_for_a_missing_extra_works_from_where_it_was_installed(
    record, fix, upgrade, tmp_path, monkeypatch
):
    (tmp_path / "a clone" / ".git").mkdir(parents=True)
    (tmp_path / "kit.whl").touch()
    text = None if record is None else record.replace("HERE", str(tmp_path))
    monkeypatch.setattr(PathDistribution, "read_text", lambda self, name: text)
    with pytest.raises(MissingExtraError) as caught:
        require("spoter_test_absent", extra="cpu")
    assert caught.value.fix == pip_fix("cpu") == fix.replace("HERE", str(tmp_path))
    assert upgrade is None or upgrade_fix() == upgrade.replace("HERE", str(tmp_path))
