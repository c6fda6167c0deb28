"""Has a crew started on working days at half past six, by one schedule however often this program runs.

It also starts it once now, to see that it works. Use: python morning.py FILE
"""

import sys
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.client import AlreadyExists, Client, load_crew
from coxswain.orchestrator.v1.execution_pb2 import (
    OVERLAP_POLICY_SKIP,
    GetExecutionRequest,
    StartExecutionRequest,
)
from coxswain.orchestrator.v1.schedule_pb2 import (
    CreateScheduleRequest,
    FireScheduleRequest,
    Schedule,
    UpdateScheduleRequest,
)

CREW = load_crew(Path(__file__).with_name("crew.yaml"))
NAME = "morning-report"


def ensure(client: Client, report: str) -> Schedule:
    """Create the schedule, or change the one that is there."""
    start = StartExecutionRequest(
        crew_name=CREW.name,
        labels={"from": "morning.py"},
        # A run that is still going on when the next is due stands for both.
        concurrency_key=NAME,
        overlap_policy=OVERLAP_POLICY_SKIP,
    )
    start.inputs["report"].string_value = report
    wanted = Schedule(name=NAME, cron="30 6 * * mon-fri", time_zone="Europe/Zurich", start=start)
    try:
        return client.schedules.CreateSchedule(CreateScheduleRequest(schedule=wanted)).schedule
    except AlreadyExists:
        mask = FieldMask(paths=["cron", "time_zone", "start"])
        return client.schedules.UpdateSchedule(
            UpdateScheduleRequest(name=NAME, schedule=wanted, update_mask=mask)
        ).schedule


def main() -> None:
    """Store crew and schedule, start it once, print the result and when it comes next."""
    with Client() as client:
        client.apply_crew(CREW)
        schedule = ensure(client, Path(sys.argv[1]).read_text(encoding="utf-8"))
        fired = client.schedules.FireSchedule(FireScheduleRequest(id=schedule.id)).execution
        for _ in client.watch(fired.id):
            pass
        ended = client.executions.GetExecution(GetExecutionRequest(id=fired.id)).execution
    print(ended.result.text or ended.error.message)
    print(f"next: {schedule.next_fire_time.ToDatetime():%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
