import asyncio

from lessons.crew import Lessons


async def run() -> None:
    crew = Lessons().crew()
    await crew.kickoff_async(inputs={"subject": "tides"})
    await crew.kickoff_for_each_async(inputs=[{"subject": "tides"}, {"subject": "moons"}])


asyncio.run(run())
