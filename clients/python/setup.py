"""Puts the code generated from the protos of the checkout into the wheel, beside the client."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]
# Nothing of a build before gets into this one, and nothing stays in the checkout.
SCRATCH = tempfile.TemporaryDirectory()


class BuildWithProtos(build_py):  # type: ignore[misc]
    """Build the packages of this directory, then add those of the protos."""

    def run(self) -> None:
        """Raises SystemExit outside of a checkout."""
        super().run()
        if not (ROOT / "protos").is_dir():
            raise SystemExit("error: a wheel of the client is built in a checkout, which has the protos")
        with tempfile.TemporaryDirectory() as generated:
            program = ROOT / "tools" / "generate_protos.py"
            subprocess.run([sys.executable, program, ROOT / "protos", generated], check=True)
            # Those of google/rpc belong to another distribution.
            for package in ("buf", "coxswain"):
                target = Path(self.build_lib) / package
                ignored = shutil.ignore_patterns("*.pyc", "__pycache__")
                shutil.copytree(Path(generated) / package, target, dirs_exist_ok=True, ignore=ignored)
                for folder in (Path(generated) / package).iterdir():
                    (target / folder.name / "py.typed").touch()


setup(
    cmdclass={"build_py": BuildWithProtos},
    options={"build": {"build_base": SCRATCH.name}, "egg_info": {"egg_base": SCRATCH.name}},
)
