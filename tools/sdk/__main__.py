"""Writes what other languages generate their clients from: one zip with every proto of the API and all they import.

It holds the protos, a descriptor image of them, checksums and a page with the commands. Its bytes depend on its content
alone. It needs the packages of requirements/codegen.txt only.

Usage: python -m tools.sdk OUTPUT_DIR
"""

import argparse
import hashlib
import re
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import status_pb2

from tools.generate_protos import VALIDATE, run_protoc, validate_files
from tools.sdk.proto_text import proto_text

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "image.binpb"
# No proto of ours imports them: they decode the details of errors.
ERROR_DETAILS = ("google/rpc/error_details.proto", "google/rpc/status.proto")
BUF_YAML = "version: v2\nmodules:\n  - path: protos\n"

_IMPORT = re.compile(r'^import\s+(?:public\s+)?"([^"]+)";', re.MULTILINE)
# The first time that a zip can tell: the content alone decides the bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def collected_protos() -> dict[str, str]:
    """Return the text of every proto of the API and of all they import, by path.

    The well-known types (google/protobuf) are left out: every protoc and every generator brings them.
    """
    own = ROOT / "protos"
    texts = {path.relative_to(own).as_posix(): path.read_text(encoding="utf-8") for path in own.rglob("*.proto")}
    wanted = [*ERROR_DETAILS, *(name for text in texts.values() for name in _IMPORT.findall(text))]
    while wanted:
        name = wanted.pop()
        if name not in texts and not name.startswith("google/protobuf/"):
            texts[name] = _third_party(name)
            wanted += _IMPORT.findall(texts[name])
    return texts


def _third_party(name: str) -> str:
    if name == VALIDATE:
        return _validate_text()
    # The directory of googleapis-common-protos.
    return (Path(status_pb2.__file__).parents[2] / name).read_text(encoding="utf-8")


def _validate_text() -> str:
    """Return buf/validate as text: its package has the descriptor alone."""
    pool = descriptor_pool.DescriptorPool()
    files = validate_files()
    for content in files:
        pool.AddSerializedFile(content)
    # Of this pool, since its options use extensions that the file itself declares.
    file_type = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FileDescriptorProto"))
    return proto_text(cast("descriptor_pb2.FileDescriptorProto", file_type.FromString(files[-1])))


def compiled(protos: Mapping[str, str]) -> bytes:
    """Return the descriptor image of protos, with their imports and comments.

    Raises SystemExit when they do not compile, and when the text of buf/validate is not what its package says.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, text in protos.items():
            target = folder / "protos" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        paths = (folder / "protos", Path(grpc_tools.__file__).parent / "_proto")
        flags = ("--include_imports", "--include_source_info", f"--descriptor_set_out={folder / IMAGE}")
        run_protoc([*(f"--proto_path={path}" for path in paths), *flags, *sorted(protos)])
        image = (folder / IMAGE).read_bytes()
    [validate] = [file for file in descriptor_pb2.FileDescriptorSet.FromString(image).file if file.name == VALIDATE]
    validate.ClearField("source_code_info")
    if validate != descriptor_pb2.FileDescriptorProto.FromString(validate_files()[-1]):
        raise SystemExit(f"error: the text of {VALIDATE} differs from its descriptor; see tools/sdk/proto_text.py")
    return image


def sdk_files() -> dict[str, bytes]:
    """Return every file of the SDK by path."""
    protos = collected_protos()
    files = {f"protos/{name}": text.encode() for name, text in protos.items()}
    files |= {
        IMAGE: compiled(protos),
        "buf.yaml": BUF_YAML.encode(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        "README.md": Path(__file__).with_name("README.md").read_bytes(),
    }
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    return files | {"SHA256SUMS": "".join(sums).encode()}


def write_sdk(output: Path) -> Path:
    """Write the SDK into a directory and return the path of the zip."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    folder = f"coxswain-sdk-{version}"
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{folder}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(sdk_files().items()):
            entry = zipfile.ZipInfo(f"{folder}/{name}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    print(write_sdk(parser.parse_args().output))


if __name__ == "__main__":
    main()
