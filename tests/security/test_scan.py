"""The secret scan: a key is found, one that a test makes up is not."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Made here, so that the scan does not find them in this file.
KEYS = [sha256(b"one").hexdigest()[:28], "db-" + sha256(b"two").hexdigest()[:29], "hunter2" + "Hunter3"]


def scan(file: Path) -> int:
    command = [sys.executable, "-m", "detect_secrets.pre_commit_hook", "--baseline", str(ROOT / ".secrets.baseline")]
    return subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_found(key: str, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(f'POLYGON_API_KEY = "{key}"\n')
    assert scan(tmp_path / "settings.py") == 1


def test_made_up_ones_are_not(tmp_path: Path) -> None:
    text = 'API_KEY = "canary-3fe1"\nPASSWORD = "nobody-may-see"\nURL = "postgresql://me:word@db/bars"\n'
    (tmp_path / "settings.py").write_text(text)
    assert scan(tmp_path / "settings.py") == 0
