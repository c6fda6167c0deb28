"""What `make sdk` writes is enough to generate clients from, in an empty directory and without a network."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.support.pages import sdk_command
from tools.sdk.__main__ import compiled, sdk_files, write_sdk

ROOT = Path(__file__).parents[3]

# A client of generated code alone: it makes a request that needs third-party types, and looks up an error's reason.
CLIENT = """
import importlib, pathlib
for file in pathlib.Path("gen").rglob("*.py"):
    importlib.import_module(".".join(file.relative_to("gen").with_suffix("").parts))
from coxswain.orchestrator.v1 import execution_pb2, execution_service_pb2_grpc as generated
assert pathlib.Path(generated.__file__).is_relative_to(pathlib.Path("gen").absolute()), generated.__file__
request = execution_pb2.StartExecutionRequest(crew_name="brief")
request.inputs["text"].string_value = "x"
assert execution_pb2.StartExecutionRequest.FromString(request.SerializeToString()) == request
from google.rpc import error_details_pb2
from coxswain.common.v1.error_reason_pb2 import ErrorReason
print(ErrorReason.Name(ErrorReason.Value("ERROR_REASON_" + error_details_pb2.ErrorInfo(reason="NOT_FOUND").reason)))
"""


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that its user has after unzipping."""
    folder = tmp_path_factory.mktemp("sdk")
    with zipfile.ZipFile(write_sdk(folder / "made")) as archive:
        archive.extractall(folder)
    [unzipped] = folder.glob("coxswain-sdk-*")
    return unzipped


def call(folder: Path, command: str, **environment: str) -> str:
    """Run a shell command as a user would whose PATH has the tools of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_sdk(tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second


def test_it_has_every_proto_and_what_decodes_errors(sdk: Path) -> None:
    call(sdk, "sha256sum --check --strict SHA256SUMS")
    image = FileDescriptorSet.FromString((sdk / "image.binpb").read_bytes())
    names = {file.name for file in image.file}
    own = {path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto")}
    assert own | {"buf/validate/validate.proto", "google/rpc/error_details.proto", "google/rpc/status.proto"} <= names
    assert {path.relative_to(sdk / "protos").as_posix() for path in (sdk / "protos").rglob("*.proto")} == {
        name for name in names if not name.startswith("google/protobuf/")
    }
    assert all(file.source_code_info.location for file in image.file if file.name in own)


def test_a_python_client_is_generated_by_the_command_of_its_page(sdk: Path) -> None:
    call(sdk, sdk_command("grpc_tools"))
    assert call(sdk, f"{sys.executable} -c '{CLIENT}'", PYTHONPATH="gen") == "ERROR_REASON_NOT_FOUND\n"


def test_buf_builds_and_generates_without_a_lock(sdk: Path) -> None:
    call(sdk, "buf build")
    # The command of the page, with a generator that is installed here in place of the one for TypeScript.
    plugin = '{"protoc_builtin":"pyi","protoc_path":["python","-m","grpc_tools.protoc"],"out":"of_buf"}'
    command = re.sub(r'\{"local".*?\}(?=\])', plugin, sdk_command("buf generate").removeprefix("npx "))
    assert plugin in command
    call(sdk, command)
    assert (sdk / "of_buf" / "coxswain" / "orchestrator" / "v1" / "execution_pb2.pyi").is_file()


@pytest.mark.skipif(shutil.which("protoc") is None, reason="protoc is not installed")
def test_any_protoc_takes_the_image(sdk: Path) -> None:
    command = sdk_command("java_out").replace(" --grpc-java_out=gen", "")
    call(sdk, command.replace("gen", "of_image"))
    assert list((sdk / "of_image").rglob("StartExecutionRequest.java"))


def test_a_third_party_text_that_is_not_its_descriptor_is_refused() -> None:
    protos = {
        name.removeprefix("protos/"): content.decode()
        for name, content in sdk_files().items()
        if name.endswith(".proto")
    }
    protos["buf/validate/validate.proto"] = protos["buf/validate/validate.proto"].replace("= 1159;", "= 1160;", 1)
    with pytest.raises(SystemExit, match="differs from its descriptor"):
        compiled(protos)
