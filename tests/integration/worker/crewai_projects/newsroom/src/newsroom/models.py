from typing import Literal, Optional

from pydantic import BaseModel, Field


class Source(BaseModel):
    name: str
    url: Optional[str] = None


class Page(BaseModel):
    headline: str = Field(description="At most ten words")
    body: str
    tone: Literal["calm", "urgent"] = "calm"
    sources: list[Source] = Field(default_factory=list)
