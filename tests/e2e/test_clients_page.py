"""The recipes of docs/clients.md make the whole round against a running suite."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.child_process import WAIT_SECONDS, scrubbed_environment
from tests.support.descriptors import product_files, product_services
from tests.support.pages import recipe, sdk_command
from tests.support.suite_process import SuiteProcess
from tools.sdk.__main__ import write_sdk

PAGE = "clients.md"
LANGUAGES = {"Python": "python", "TypeScript": "js", "grpcurl": "sh", "Go": "go", "Java": "java", "C# (.NET)": "csharp"}

# Where grpcurl is not installed, buf sends the same data to the same method.
GRPCURL = """#!/bin/sh
[ "$1 $2 $4" = "-plaintext -H -d" ] || exit 2
exec buf curl --http2-prior-knowledge --protocol grpc -H "$3" -d "$5" "http://$6/$7"
"""

# Debian's packages take what Debian's generators write: those that somebody has installed beside them write for others.
GENERATORS = Path("/usr/bin")
GENERATORS_PATH = f"{GENERATORS}:/bin"

# Where Debian installs packages of Go: golang-google-grpc-dev, and golang-github-golang-protobuf-1-5-dev for the file.
GO_PACKAGES = Path("/usr/share/gocode")
GO_PROTOBUF_1_5 = GO_PACKAGES / "src/github.com/golang/protobuf/proto/wire.go"

# Likewise of Java: libgrpc-java and libnetty-java, with what they need.
JAVA_PACKAGES = Path("/usr/share/java")
JAVA_JARS = [
    "grpc-api",
    "grpc-context",
    "grpc-core",
    "grpc-netty",
    "grpc-protobuf",
    "grpc-protobuf-lite",
    "grpc-stub",
    "protobuf",
    "proto-google-common-protos",
    "geronimo-annotation-1.3-spec",
    "guava",
    "gson",
    "perfmark-api",
    "netty-buffer",
    "netty-codec",
    "netty-codec-http",
    "netty-codec-http2",
    "netty-codec-socks",
    "netty-common",
    "netty-handler",
    "netty-handler-proxy",
    "netty-resolver",
    "netty-transport",
]

# How the recipe is written for gRPC before 1.63.
GO_BEFORE_1_63 = {
    "grpc.NewClient(": "grpc.Dial(",
    "grpc.WithTransportCredentials(insecure.NewCredentials())": "grpc.WithInsecure()",
    '\t"google.golang.org/grpc/credentials/insecure"\n': "",
}


def run(suite: SuiteProcess, *command: str, text: str, cwd: Path, **environment: str) -> str:
    """Run a program that is given as text, as it is printed but for the suite's address.

    That is one suite for all recipes, as a reader has one server: none may need what another one has used up.
    """
    suite.restore_workers()
    own = text.replace("127.0.0.1:50051", suite.address("orchestrator"))
    return run_alone(*command, text=own, cwd=cwd, **environment)


def run_alone(*command: str, text: str = "", cwd: Path, **environment: str) -> str:
    """Run a program that calls no suite, and return what it prints."""
    ran = subprocess.run(
        command,
        input=text,
        cwd=cwd,
        env=scrubbed_environment(cwd, **environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    return ran.stdout


def run_shell(suite: SuiteProcess, text: str, cwd: Path) -> str:
    """Run a text of the shell whose calls are those of grpcurl."""
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if shutil.which("grpcurl") is None:
        (cwd / "grpcurl").write_text(GRPCURL)
        (cwd / "grpcurl").chmod(0o755)
        programs.insert(0, str(cwd))
    return run(suite, "sh", "-s", text=text, cwd=cwd, PATH=os.pathsep.join(programs))


def test_python(suite: SuiteProcess, tmp_path: Path) -> None:
    printed = run(suite, sys.executable, "-", text=recipe(PAGE, "Python", "python"), cwd=tmp_path).splitlines()
    events = [line.split() for line in printed if re.fullmatch(r"\d+ \w+", line)]
    assert [int(number) for number, _ in events] == list(range(1, len(events) + 1)), "each event once, over the cut"
    kinds = [kind for _, kind in events]
    assert kinds.index("question_raised") < kinds.index("question_answered") < kinds.index("execution_succeeded")
    _text, cancelled, invalid, missing, generated = printed[len(events) :]
    assert cancelled == "execution_cancelled"
    assert invalid.startswith("INVALID_FIELD [('inputs.text'")
    assert missing.startswith("NOT_FOUND {")
    assert generated.startswith("StatusCode.NOT_FOUND NOT_FOUND {")


def test_typescript(suite: SuiteProcess, typescript_client: Path) -> None:
    program = recipe(PAGE, "TypeScript", "js")
    node = ("node", "--input-type=module", "-")
    printed = run(suite, *node, text=program, cwd=typescript_client).splitlines()
    sequences = [int(line.split()[0]) for line in printed if re.fullmatch(r"\d+ \w+", line)]
    assert sequences == list(range(1, len(sequences) + 1)), "each event once, over the cut"
    watched = printed.index("events undefined")
    assert printed[watched - 3 : watched - 1] == ["executionCancelled", "INVALID_FIELD inputs.text"]
    assert printed[watched - 1].startswith("NOT_FOUND")
    assert printed[watched + 1] == "letter executionQueued"
    assert printed[-3] == "letter questionRaised"
    assert printed[-2].startswith("asked ")
    assert printed[-1] == "alert undefined"


def test_grpcurl(suite: SuiteProcess, tmp_path: Path) -> None:
    printed = run_shell(suite, recipe(PAGE, "grpcurl", "sh"), tmp_path)
    for found in ('"executionSucceeded"', '"executionCancelled"', "failed with exit code"):
        assert found in printed
    assert re.findall(r'"sequence": "(\d+)"', printed)[0] == "4", "the watch goes on behind the event it names"


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that a user of the SDK has after unzipping."""
    folder = tmp_path_factory.mktemp("sdk")
    shutil.unpack_archive(write_sdk(folder / "made"), folder)
    [unzipped] = folder.glob("coxswain-sdk-*")
    return unzipped


def needs(*programs: str, files: Iterable[Path]) -> None:
    """Skip the test where a program, or a file of a package, is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    missing += [str(file) for file in files if not file.exists()]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


# Compilers and programs, each of which may take its time.
@pytest.mark.timeout(1000)
def test_go(suite: SuiteProcess, sdk: Path, tmp_path: Path) -> None:
    grpc = GO_PACKAGES / "src/google.golang.org/grpc/clientconn.go"
    generators = [GENERATORS / name for name in ("protoc", "protoc-gen-go", "protoc-gen-go-grpc")]
    needs("go", files=[*generators, grpc, GO_PROTOBUF_1_5])
    run_alone("sh", "-ec", sdk_command("go_out"), cwd=sdk, PATH=GENERATORS_PATH)
    program = recipe(PAGE, "Go", "go")
    if "func NewClient(" not in grpc.read_text(encoding="utf-8"):
        for now, before in GO_BEFORE_1_63.items():
            assert now in program
            program = program.replace(now, before)
    sources = tmp_path / "src"
    shutil.copytree(sdk / "gen", sources / "example.com" / "coxswain")
    (sources / "round").mkdir()
    (sources / "round" / "main.go").write_text(program.replace("127.0.0.1:50051", suite.address("orchestrator")))
    go = {"GO111MODULE": "off", "GOPATH": f"{tmp_path}{os.pathsep}{GO_PACKAGES}", "GOCACHE": go_cache()}
    run_alone("go", "vet", "round", cwd=tmp_path, **go)
    run_alone("go", "build", "-o", "round", "round", cwd=tmp_path, **go)
    store_crew(suite, tmp_path)
    made_the_round(run(suite, str(tmp_path / "round"), text="", cwd=tmp_path))


@pytest.mark.timeout(1000)
def test_java(suite: SuiteProcess, sdk: Path, tmp_path: Path) -> None:
    jars = [JAVA_PACKAGES / f"{name}.jar" for name in JAVA_JARS]
    plugin = GENERATORS / "grpc_java_plugin"
    needs("java", "javac", files=[GENERATORS / "protoc", plugin, *jars])
    # Debian's plugin has a name of its own, and its package of google.rpc is older than ErrorInfo.
    (tmp_path / "protoc-gen-grpc-java").symlink_to(plugin)
    command = sdk_command("java_out").replace("find coxswain buf ", "find coxswain buf google ")
    run_alone("sh", "-ec", command, cwd=sdk, PATH=f"{tmp_path}:{GENERATORS_PATH}")
    program = recipe(PAGE, "Java", "java").replace("127.0.0.1:50051", suite.address("orchestrator"))
    (tmp_path / "Round.java").write_text(program)
    classes = ("-classpath", os.pathsep.join(map(str, [tmp_path, *jars])))
    sources = ("-sourcepath", str(sdk / "gen"), "-proc:none", "-nowarn")
    run_alone("javac", *classes, *sources, "-d", ".", "Round.java", cwd=tmp_path)
    store_crew(suite, tmp_path)
    made_the_round(run(suite, "java", *classes, "Round", text="", cwd=tmp_path))


def go_cache() -> str:
    """Return where Go keeps what it has compiled, by content: gRPC takes long, and is compiled once for all runs."""
    asked = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True, timeout=WAIT_SECONDS)
    return asked.stdout.strip()


def store_crew(suite: SuiteProcess, cwd: Path) -> None:
    """Store the crew of the group `shell`, by the first call of the recipe for grpcurl."""
    first_call, _, _ = recipe(PAGE, "grpcurl", "sh").partition("\nid=")
    run_shell(suite, first_call, cwd)


def made_the_round(printed: str) -> None:
    """Check what a compiled recipe prints: events of two executions, a result between them, an error at the end."""
    first, second = re.findall(r"(?:^\d+ \S+\n)+", printed, re.MULTILINE)
    events = [line.split() for line in first.splitlines()]
    assert [int(number) for number, _ in events] == list(range(1, len(events) + 1)), "each event once, over the cut"
    kinds = [re.sub(".*\\.ExecutionEvent|_", "", kind).lower() for kind in f"{first}{second}".split()[1::2]]
    assert kinds.index("questionraised") < kinds.index("questionanswered") < kinds.index("executionsucceeded")
    assert kinds[len(events) - 1] == "executionsucceeded"
    assert kinds[-1] == "executioncancelled"
    assert "ferry" in printed
    assert re.search(r"\bNOT_FOUND\b.*\bnobody\b", printed.splitlines()[-1])


def test_recipes_start_executions_of_their_own() -> None:
    texts = [recipe(PAGE, heading, language) for heading, language in LANGUAGES.items()]
    starts = [
        (group, request_id)
        for text in texts
        for group in set(re.findall(r"dev:alice:(\w+)=", text))
        for request_id in set(re.findall(r"\border-\w+", text))
    ]
    assert len(starts) >= len(texts)
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("language", ["go", "java", "csharp"])
def test_compiled_recipes_name_what_there_is(language: str) -> None:
    (heading,) = (heading for heading, name in LANGUAGES.items() if name == language)
    text = recipe(PAGE, heading, language)
    messages = {name for file in product_files() for name in file.message_types_by_name}
    methods = {method.name for service in product_services() for method in service.methods}
    assert set(re.findall(r"\b[A-Z]\w+(?:Request|Question)\b", text)) <= messages | methods
    for method in ("StartExecution", "WatchExecution", "AnswerQuestion", "CancelExecution"):
        assert method in methods
        assert re.search(rf"\.{method}(Async)?\(", text, re.IGNORECASE)
