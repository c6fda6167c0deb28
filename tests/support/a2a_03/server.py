"""An agent by the official SDK of A2A 0.3 as a program, run by its path in an environment of its own.

It prints its port, asks each who sends it a message a question, and then writes. It serves until it is killed.
"""

import asyncio

import grpc
from a2a.grpc import a2a_pb2_grpc
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler, GrpcHandler
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentSkill, Part, TextPart
from a2a.utils import new_task


def said(text: str) -> list[Part]:
    return [Part(root=TextPart(text=text))]


class Writer(AgentExecutor):
    """Asks for the year, and writes a brief about what it was asked for at first."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task = context.current_task
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        if task is None:
            await event_queue.enqueue_event(new_task(context.message))
            await updater.start_work()
            question = updater.new_agent_message(said("Which year?"))
            await updater.requires_input(question, final=True)
            return
        await updater.start_work()
        topic = task.history[0].parts[0].root.text
        await updater.add_artifact(said(f"{topic}: a brief of {context.get_user_input()}."), name="brief")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


async def main() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    card = AgentCard(
        name="Partner",
        description="Briefs you.",
        version="1",
        url=f"127.0.0.1:{port}",
        preferred_transport="GRPC",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="brief", name="Brief", description="Briefs you on a topic.", tags=["briefs"])],
    )
    handler = DefaultRequestHandler(agent_executor=Writer(), task_store=InMemoryTaskStore())
    a2a_pb2_grpc.add_A2AServiceServicer_to_server(GrpcHandler(card, handler), server)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
