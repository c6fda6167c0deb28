"""The command that asks a model one question: ask."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from coxswain.client.cli.session import JsonOption, Session, session_of
from coxswain.client.later import inference_pb2


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
    content = [inference_pb2.ContentPart(image=_image(image)) for image in images or ()]
    content += [
        inference_pb2.ContentPart(document=inference_pb2.Document(data=path.read_bytes(), file_name=path.name))
        for path in documents or ()
    ]
    content += [inference_pb2.ContentPart(audio=inference_pb2.Audio(data=path.read_bytes())) for path in audio or ()]
    content.append(inference_pb2.ContentPart(text=sys.stdin.read() if question == "-" else question))
    completion = inference_pb2.Completion(
        model=model, messages=[inference_pb2.Message(role=inference_pb2.MessageRole.MESSAGE_ROLE_USER, content=content)]
    )
    with session.client() as client:
        if session.json:
            return session.print_json(client.inference.Complete(inference_pb2.CompleteRequest(completion=completion)))
        used = inference_pb2.Usage()
        for piece in client.inference.StreamComplete(inference_pb2.StreamCompleteRequest(completion=completion)):
            if piece.text:
                _write(session, piece.text)
            elif piece.HasField("usage"):
                used = piece.usage
        sys.stdout.write("\n")
    cost = f", ${used.cost:.4f}" if used.cost else ""
    session.say(f"{used.input_tokens:,} tokens in, {used.output_tokens:,} out{cost}", "dim")
    return None


def _image(source: str) -> inference_pb2.Image:
    if source.startswith("https://"):
        return inference_pb2.Image(url=source)
    return inference_pb2.Image(data=Path(source).read_bytes())


def _write(session: Session, text: str) -> None:
    sys.stdout.write(session.safe(text))
    sys.stdout.flush()
