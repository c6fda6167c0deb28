"""What callers were told of the protos stays: `make proto-lint` refuses changes that break them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "gen" / "image.binpb"


def breaks(image: Path) -> str:
    """Return what a set of descriptors breaks, by the command that `make proto-lint` runs; empty for nothing."""
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "proto-lint"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    [command] = [line.split() for line in planned.splitlines() if " breaking " in line]
    command[:3] = [str(Path(sys.executable).with_name("buf")), "breaking", str(image)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode == 0) == (ran.stdout == ""), ran.stderr
    return ran.stdout


def test_the_protos_break_nothing() -> None:
    assert breaks(IMAGE) == ""


def remove_field(files: FileDescriptorSet) -> None:
    del message(files, "StartExecutionRequest").field[0]


def change_type(files: FileDescriptorSet) -> None:
    field = message(files, "ExecutionEvent").field[0]
    field.type = field.TYPE_BYTES


def remove_method(files: FileDescriptorSet) -> None:
    [service] = next(file for file in files.file if file.name.endswith("execution_service.proto")).service
    del service.method[0]


def message(files: FileDescriptorSet, name: str) -> DescriptorProto:
    return next(one for file in files.file for one in file.message_type if one.name == name)


@pytest.mark.parametrize("change", [remove_field, change_type, remove_method])
def test_a_breaking_change_is_refused(change: Callable[[FileDescriptorSet], None], tmp_path: Path) -> None:
    files = FileDescriptorSet.FromString(IMAGE.read_bytes())
    change(files)
    changed = tmp_path / "changed.binpb"
    changed.write_bytes(files.SerializeToString())
    assert breaks(changed)
