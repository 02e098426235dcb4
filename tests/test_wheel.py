import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from conftest import ROOT, SMALL


def test_a_wheel_installed_apart_runs_from_elsewhere(tmp_path):
    built = tmp_path / "wheel"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, ROOT],
        check=True,
    )
    (wheel,) = built.glob("*.whl")
    apart = tmp_path / "environment"
    venv.create(apart, with_pip=False)
    programs = apart / ("Scripts" if os.name == "nt" else "bin")
    (own,) = apart.rglob("site-packages")
    # What refine depends on is borrowed from here; a .pth file inside the borrowed directory, such
    # as that of an editable install, is not read, so that refine itself can only be the wheel's.
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [*pip, "--python", programs / "python", "install", "--no-deps", wheel], check=True
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [programs / "refine-run", *SMALL, "trainer.epochs=1", "output_dir=run"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "run" / "refinement.png").is_file()
    listed = subprocess.run(
        [programs / "refine", "ls", "run"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert listed.splitlines()[1].split()[:3] == ["run", "finished", "1/1"]
    where = subprocess.run(
        [programs / "python", "-c", "import refine; print(refine.__file__)"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert Path(where.strip()).is_relative_to(apart)
    assert (own / "refine" / "py.typed").is_file()
