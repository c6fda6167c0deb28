"""Generates everything that comes out of ``protos/`` into one directory.

Written there: messages, gRPC stubs, the type stubs of both, and ``image.binpb``, a FileDescriptorSet with imports and
comments that reflection serves and that buf checks.

No third-party proto is kept in this repository: google/rpc and google/api lie in the googleapis-common-protos wheel,
and buf/validate is taken as a descriptor out of the protovalidate wheel.

What a service keeps for itself is generated too but stays out of the image: `--own PACKAGE=DIR` names a directory
outside of ``protos/`` whose messages belong to the package path PACKAGE.

Usage: python tools/generate_protos.py [--own PACKAGE=DIR]... PROTOS_DIR OUTPUT_DIR
"""

import argparse
import fcntl
import filecmp
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.rpc import status_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

IMAGE = "image.binpb"
VALIDATE = "buf/validate/validate.proto"
# Their wheel has the modules but does not declare itself typed: type stubs only.
TYPED_HERE = ["google/rpc/code.proto", "google/rpc/error_details.proto", "google/rpc/status.proto"]


def validate_files() -> list[bytes]:
    """Returns the descriptors of the well-known types that buf/validate imports, and its own as the last."""
    modules = (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2)
    return [*(module.DESCRIPTOR.serialized_pb for module in modules), validate_pb._DESC.proto.to_binary()]


def write_validate_descriptor(path: Path) -> None:
    """Writes buf/validate with the well-known types it imports: what ``--descriptor_set_in`` wants."""
    files = descriptor_pb2.FileDescriptorSet()
    for content in validate_files():
        files.file.add().ParseFromString(content)
    path.write_bytes(files.SerializeToString())


def run_protoc(arguments: Iterable[str]) -> None:
    """Raises SystemExit when protoc finds an error; protoc has printed it."""
    code = protoc.main(["protoc", *arguments])
    if code:
        raise SystemExit(code)


def plugin(name: str) -> str:
    """Returns the option that names a plugin: beside the interpreter, or on PATH, as in environments for builds."""
    directories = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=directories)
    if found is None:
        raise SystemExit(f"error: {name} is not installed")
    return f"--plugin={name}={found}"


def generate(protos: Path, own: Mapping[str, Path], output: Path, scratch: Path) -> None:
    """Generates all of ``protos`` and the directories of ``own`` into the empty directory ``output``."""
    sources = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    if not sources:
        raise SystemExit(f"error: no .proto file under {protos}")
    own_sources = [f"{package}/{path.name}" for package, folder in own.items() for path in folder.glob("*.proto")]
    if len(own_sources) < len(own):
        raise SystemExit(f"error: no .proto file under one of {', '.join(map(str, own.values()))}")
    validate = scratch / "validate.binpb"
    write_validate_descriptor(validate)
    inputs = [
        f"--descriptor_set_in={validate}",
        f"--proto_path={protos}",
        *(f"--proto_path={package}={folder}" for package, folder in own.items()),
        f"--proto_path={Path(status_pb2.__file__).parents[2]}",
        f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
    ]
    run_protoc([*inputs, f"--python_out={output}", *sources, *own_sources, VALIDATE])
    run_protoc(
        [
            *inputs,
            plugin("protoc-gen-mypy"),
            f"--mypy_out=quiet:{output}",
            *sources,
            *own_sources,
            VALIDATE,
            *TYPED_HERE,
        ]
    )
    run_protoc(
        [*inputs, "--include_imports", "--include_source_info", f"--descriptor_set_out={output / IMAGE}", *sources]
    )
    image = descriptor_pb2.FileDescriptorSet.FromString((output / IMAGE).read_bytes())
    with_services = [file.name for file in image.file if file.service and file.name in sources]
    if with_services:
        run_protoc(
            [
                *inputs,
                plugin("protoc-gen-mypy_grpc"),
                f"--grpc_python_out={output}",
                f"--mypy_grpc_out=quiet:{output}",
                *with_services,
            ]
        )


def publish(fresh: Path, output: Path) -> None:
    """Makes ``output`` equal to ``fresh``, file by file: each is replaced at once; an unchanged one keeps its time."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for name in wanted:
        target = output / name
        if target.is_file() and filecmp.cmp(fresh / name, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(target)
    for path in sorted(output.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.suffix in {".py", ".pyi", ".binpb"} and path.relative_to(output) not in wanted:
            path.unlink()
        elif path.suffix == ".pyc" and not path.parent.with_name(path.name.split(".")[0] + ".py").is_file():
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--own", metavar="PACKAGE=DIR", action="append", default=[])
    parser.add_argument("protos", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    lock = os.open(output / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Beside the output, so that a rename moves the files.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.resolve().parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        own = {package: Path(folder) for package, _, folder in (pair.partition("=") for pair in options.own)}
        generate(options.protos, own, fresh, Path(scratch))
        publish(fresh, output)


if __name__ == "__main__":
    main()
