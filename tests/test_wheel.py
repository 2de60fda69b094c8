"""An installed node needs no checkout: the wheel carries configuration, models and migrations."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.flow
def test_a_wheel_alone_can_make_check_and_migrate_a_node(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    build += ["--wheel-dir", str(tmp_path / "wheel"), str(ROOT)]
    subprocess.run(build, check=True, timeout=280, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("limner-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    top = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"node", "storage"}
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import node.cli, storage; "
        "assert node.__file__.startswith(sys.argv[1]), node.__file__; "
        "sys.argv = ['limner', *sys.argv[2:]]; node.cli.main()"
    )

    def limner(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, str(site), *words],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    made = limner("init", "node1")
    assert made.returncode == 0, made.stderr
    checked = limner("check", "--config", "node1/limner.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "3 models" in checked.stdout or "models: all good" in checked.stdout
    assert limner("migrate", "--config", "node1/limner.toml").returncode == 0
