"""The installed package: built from a clean checkout, in environments of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from example_logs import write_example_logs
from userbert.kernels import BUILDS

ROOT = Path(__file__).parents[1]
SDIST = "from setuptools.build_meta import build_sdist; build_sdist({folder!r})"
TRAIN = ["pretrain", "data", "-o", "model", "--steps", "3", "--set", "model.layers=1"]
NEED_TORCH = [
    TRAIN,
    ["embed", "model", "data", "-o", "embeddings.parquet"],
    ["finetune", "model", "data", "--labels", "return.parquet", "-o", "task"],
    ["evaluate", "model", "data", "--labels", "return.parquet", "-o", "verdict"],
    ["demo"],
]

pytestmark = pytest.mark.slow


def outside(**more: str) -> dict[str, str]:
    """Environment variables of a user without a checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**variables, **more}


def pip(*arguments: str | Path, **more: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    # pytest shows pip's output if it fails.
    subprocess.run(command, env=outside(**more), check=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from files in git only."""
    folder = tmp_path_factory.mktemp("built")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "checkout" / name)
    subprocess.run(
        [sys.executable, "-c", SDIST.format(folder=str(folder))],
        cwd=folder / "checkout",
        env=outside(),
        check=True,
    )
    return next(folder.glob("*.tar.gz"))


def wheel_of(sdist: Path, folder: Path, **more: str) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, sdist, **more)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a machine with a compiler."""
    return wheel_of(built, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_without_libraries(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a machine whose compiler fails."""
    return wheel_of(built, tmp_path_factory.mktemp("wheel_without"), CC="false")


def new_environment(folder: Path) -> Path:
    """Create an empty environment; return its Python."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, env=outside(), check=True)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the base install."""
    python = new_environment(tmp_path_factory.mktemp("base"))
    pip("--python", python, "install", "-c", ROOT / "constraints.txt", wheel)
    return python


def borrowing(wheel: Path, folder: Path) -> Path:
    """Python of an environment with a wheel, and with the other packages of the test run."""
    python = new_environment(folder)
    pip("--python", python, "install", "--no-deps", wheel)
    # After pip, which must not see these packages.
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder that is not a checkout."""
    return run_outside(folder, python.with_name("userbert"), *arguments)


def run_outside(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=outside(), capture_output=True, text=True, check=False
    )


def runs(python: Path, folder: Path, *arguments: str) -> str:
    done = run(python, folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(python: Path, folder: Path) -> None:
    write_example_logs(folder, users=60)
    runs(python, folder, "init", "events.parquet", "--profiles", "profiles.parquet")
    runs(python, folder, "prepare", "schema.yaml", "-o", "data")


def test_source_distribution_holds_the_package_and_its_build_files(built: Path) -> None:
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {path.relative_to(built.parent / "checkout") for path in package_files(built)}
    assert {str(path) for path in tracked} <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not any(name.startswith(("tests", "docs", "experiments")) for name in names)


def package_files(built: Path) -> list[Path]:
    package = built.parent / "checkout/src/userbert"
    return [path for path in package.rglob("*") if path.is_file()]


def test_wheel_holds_the_package_and_its_libraries(built: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    checkout = built.parent / "checkout/src"
    expected = {str(path.relative_to(checkout)) for path in package_files(built)}
    assert {"userbert/py.typed", "userbert/report/report.html.jinja"} < expected
    libraries = {f"userbert/kernels/{build}.so" for build in BUILDS}
    files = {name for name in names if ".dist-info/" not in name}
    assert files == expected | libraries
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert not wheel.stem.endswith("any")


def test_wheel_without_a_compiler_is_for_every_machine(
    wheel: Path, wheel_without_libraries: Path
) -> None:
    assert wheel_without_libraries.name.endswith("-py3-none-any.whl")
    files, fewer = (
        {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
        for path in (wheel, wheel_without_libraries)
    )
    assert files - fewer == {f"userbert/kernels/{build}.so" for build in BUILDS}
    assert fewer < files


def test_building_in_place_removes_older_libraries(
    built: Path,
) -> None:
    checkout = built.parent / "checkout"
    older = checkout / "src/userbert/kernels/_bf16.cpython-311-x86_64-linux-gnu.so"
    older.touch()
    for place, is_kept in (((), True), (("--inplace",), False)):
        command = [sys.executable, "setup.py", "-q", "build_ext", *place]
        environment = outside(CC="false")
        subprocess.run(command, cwd=checkout, env=environment, check=True)
        assert older.exists() is is_kept


def test_base_install_prepares_and_labels_and_names_the_missing_extra(
    base: Path, tmp_path: Path
) -> None:
    assert "pretrain" in runs(base, tmp_path, "--help")
    prepare(base, tmp_path)
    assert "u7" in runs(base, tmp_path, "inspect", "data", "--user", "u7")
    options = ["--horizon", "14d", "--cutoff", "2024-04-01", "-o", "return.parquet"]
    runs(base, tmp_path, "label", "return", "data", *options)
    before = sorted(tmp_path.iterdir())
    for arguments in NEED_TORCH:
        done = run(base, tmp_path, *arguments)
        message = "error: this needs torch. Install it with: pip install 'userbert[train]'\n"
        assert (done.returncode, done.stderr) == (2, message), arguments
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("has_libraries", [True, False])
def test_installed_wheel_trains_and_embeds(
    has_libraries: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = "wheel" if has_libraries else "wheel_without_libraries"
    environment = tmp_path / "environment"
    python = borrowing(request.getfixturevalue(name), environment)
    code = "import userbert, userbert.kernels as k; print(userbert.__file__, bool(k.library()))"
    done = run_outside(tmp_path, python, "-c", code)
    file, _, is_used = done.stdout.strip().rpartition(" ")
    assert Path(file).is_relative_to(environment), done.stderr
    assert has_libraries or is_used == "False"
    prepare(python, tmp_path)
    runs(python, tmp_path, *TRAIN, "--set", "batch_size=8")
    output = runs(python, tmp_path, "embed", "model", "data", "-o", "embeddings.parquet")
    assert "60 vectors" in output
