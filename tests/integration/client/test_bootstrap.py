"""tools/bootstrap.sh installs a lock by pip where uv cannot, extras included, and says what it does."""

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]


def add_wheel(folder: Path, name: str, metadata: str = "", scripts: str = "") -> str:
    """Write a package without code; return its line of a lock."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        files[f"{name}-1.0.data/scripts/{name}"] = scripts
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    lines = [f"{path},sha256={digest.rstrip(b'=').decode()},{len(files[path])}" for path, digest in digests.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, text)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def test_what_uv_cannot_install_pip_does(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "bootstrap.txt").write_text(
        add_wheel(packages, "uv", scripts='#!/bin/sh\necho "certificates: $UV_SYSTEM_CERTS"; exit 1\n')
    )
    base = add_wheel(packages, "base", "Provides-Extra: more\nRequires-Dist: addition; extra == 'more'\n")
    # A lock may override what a package asks for, and has what its extras need.
    wants = add_wheel(packages, "wants", "Requires-Dist: base[more]>=2.0\n")
    (tmp_path / "lock.txt").write_text("\n".join([base, add_wheel(packages, "addition"), wants]))
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages)}
    command = (ROOT / "tools" / "bootstrap.sh", sys.executable, tmp_path / "made", "lock.txt")
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "certificates: true" in ran.stdout
    assert "installing 3 packages from lock.txt" in ran.stderr
    assert "trying pip" in ran.stderr
    [installed] = (tmp_path / "made").glob("lib/python3.*/site-packages")
    assert {path.name for path in installed.glob("*-1.0.dist-info")} == {
        f"{name}-1.0.dist-info" for name in ("uv", "base", "addition", "wants")
    }
