"""Options for the directories of reference cases, so that another set of cases runs the same way."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Opened, open_page

SHARED = Path(__file__).resolve().parents[2] / "shared"

CASE_DIRS = {
    "--golden-dir": ("golden", "npz files of OpenFold's and ESMFold's own functions"),
    "--lddt-golden-dir": ("lddt_golden", "prediction/truth pairs scored by several lDDT implementations"),
    "--bad-inputs-dir": ("bad_inputs", "damaged files and directories with the report that each deserves"),
    "--structures-dir": ("structures", "experimental structure files"),
    "--lddt-pairs-dir": ("lddt_pairs", "prediction/truth pairs with a published lDDT-Calpha"),
}


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # some tests interrupt themselves or their processes


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reference cases")
    for option, (folder, text) in CASE_DIRS.items():
        group.addoption(option, type=Path, default=SHARED / folder, help=f"{text} (default: {SHARED / folder})")


def case_dir(config: pytest.Config, option: str) -> Path | None:
    """The directory that ``option`` names, or None where it does not exist (use it at collection time)."""
    path = config.getoption(option)
    return path if path.is_dir() else None


def _fixture(option: str):
    @pytest.fixture(scope="session", name=option.strip("-").replace("-", "_"))
    def fixture(pytestconfig: pytest.Config) -> Path:
        path = case_dir(pytestconfig, option)
        if path is None:
            pytest.skip(f"no reference cases: {pytestconfig.getoption(option)} is not a directory (see {option})")
        return path

    return fixture


golden_dir = _fixture("--golden-dir")
lddt_golden_dir = _fixture("--lddt-golden-dir")
bad_inputs_dir = _fixture("--bad-inputs-dir")
structures_dir = _fixture("--structures-dir")
lddt_pairs_dir = _fixture("--lddt-pairs-dir")


@pytest.fixture(scope="session")
def browser() -> Callable[..., Opened]:
    """``browser(page, script)``: see ``tests.browser.open_page``."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the PATH (or its program in the variable CHROMIUM)")
    return open_page


@pytest.fixture
def small_files() -> Callable:
    """``with small_files(n):`` the system refuses to write any file beyond n bytes, as a full disk would."""
    resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
