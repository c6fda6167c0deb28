"""Tools written for CrewAI."""

import os

from crewai.tools import BaseTool, tool
from crewai.tools.base_tool import EnvVar
from crewai.tools.tool_failure import ToolFailure, ToolFailureReason
from pydantic import BaseModel, Field


class SearchInput(BaseModel):
    query: str = Field(description="What is looked for.")
    limit: int = 3


class SearchTool(BaseTool):
    name: str = "Desk search"
    description: str = "Searches the desk."
    args_schema: type[BaseModel] = SearchInput
    env_vars: list[EnvVar] = Field(default=[EnvVar(name="DESK_TOKEN", description="Key of the desk.")])

    def _run(self, query: str, limit: int = 3) -> object:
        if query == "nothing":
            return ToolFailure(message="nothing was found", reason=ToolFailureReason.TOOL_REPORTED)
        return {"query": query, "limit": limit, "authenticated": os.environ["DESK_TOKEN"] == "desk-secret-1"}


@tool("shout")
def shout(text: str) -> str:
    """Says it louder."""
    return text.upper()


TOOLS = [SearchTool, shout]
