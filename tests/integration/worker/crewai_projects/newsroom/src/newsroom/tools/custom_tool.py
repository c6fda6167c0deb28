from crewai.tools import BaseTool
from pydantic import BaseModel, Field


class WordCountInput(BaseModel):
    """Input of the tool."""

    text: str = Field(..., description="The text whose words are counted.")


class WordCountTool(BaseTool):
    name: str = "Word counter"
    description: str = "Counts the words of a text."
    args_schema: type[BaseModel] = WordCountInput

    def _run(self, text: str) -> str:
        return str(len(text.split()))
