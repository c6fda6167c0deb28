"""The command that asks a model one question: ask."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from coxswain.client.cli.session import JsonOption, Session, session_of
from coxswain.models.v1.inference_pb2 import (
    Audio,
    CompleteRequest,
    Completion,
    ContentPart,
    Document,
    Image,
    Message,
    MessageRole,
    StreamCompleteRequest,
    Usage,
)


def ask(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model, as `coxswain models` lists it.")],
    question: Annotated[str, typer.Argument(help="What to ask; - reads standard input.")],
    images: Annotated[
        list[str] | None, typer.Option("--image", help="File or https address of an image to look at; repeatable.")
    ] = None,
    documents: Annotated[
        list[Path] | None, typer.Option("--document", help="PDF or text file to read; repeatable.")
    ] = None,
    audio: Annotated[list[Path] | None, typer.Option("--audio", help="Recording to listen to; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a model a question, with files that it looks at, reads or listens to.

    Example: `coxswain ask openai/gpt-4.1 "Which rooms are on the plan?" --image plan.png`
    """
    session = session_of(context, as_json)
    content = [ContentPart(image=_image(image)) for image in images or ()]
    content += [ContentPart(document=Document(data=path.read_bytes(), file_name=path.name)) for path in documents or ()]
    content += [ContentPart(audio=Audio(data=path.read_bytes())) for path in audio or ()]
    content.append(ContentPart(text=sys.stdin.read() if question == "-" else question))
    completion = Completion(model=model, messages=[Message(role=MessageRole.MESSAGE_ROLE_USER, content=content)])
    with session.client() as client:
        if session.json:
            return session.print_json(client.inference.Complete(CompleteRequest(completion=completion)))
        used = Usage()
        for piece in client.inference.StreamComplete(StreamCompleteRequest(completion=completion)):
            if piece.text:
                _write(session, piece.text)
            elif piece.HasField("usage"):
                used = piece.usage
        sys.stdout.write("\n")
    cost = f", ${used.cost:.4f}" if used.cost else ""
    session.say(f"{used.input_tokens:,} tokens in, {used.output_tokens:,} out{cost}", "dim")
    return None


def _image(source: str) -> Image:
    if source.startswith("https://"):
        return Image(url=source)
    return Image(data=Path(source).read_bytes())


def _write(session: Session, text: str) -> None:
    sys.stdout.write(session.safe(text))
    sys.stdout.flush()
