from crewai.flow.flow import Flow, listen, or_, router, start
from pydantic import BaseModel

from travel.crews.packing_crew.packing_crew import PackingCrew
from travel.crews.route_crew.route_crew import RouteCrew


class Trip(BaseModel):
    place: str = "Lisbon"
    route: str = ""


class TravelFlow(Flow[Trip]):
    @start()
    def plan_route(self):
        self.state.route = RouteCrew().crew().kickoff(inputs={"place": self.state.place}).raw

    @router(plan_route)
    def by_length(self):
        return "long" if len(self.state.route) > 20 else "short"

    @listen(or_("long", "short"))
    def pack(self):
        return PackingCrew().crew().kickoff(inputs={"route": self.state.route})


def kickoff():
    TravelFlow().kickoff()


def plot():
    TravelFlow().plot()
