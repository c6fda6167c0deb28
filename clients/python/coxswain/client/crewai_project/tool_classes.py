"""CrewAI's classes of tools, and what stands for them here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A tool of the server that does what a class of tools does."""

    name: str
    differs: str
    """What is not the same."""
    takes_settings: bool = True
    """Whether it stands for the class also where that is given settings; these are left out."""


_FILES = "it knows the files of the execution, not those of a machine"
_SEARCH = "it searches by the service and the key that the server has; settings are left out"
COUNTERPARTS = {
    "SerperDevTool": Counterpart("web_search", _SEARCH),
    "TavilySearchTool": Counterpart("web_search", _SEARCH),
    "ScrapeWebsiteTool": Counterpart(
        "web_fetch", "the agent says which page: name it in the task where it is always the same; settings are left out"
    ),
    "FileReadTool": Counterpart("file_read", _FILES, takes_settings=False),
    "FileWriterTool": Counterpart("file_write", _FILES),
    "DirectoryReadTool": Counterpart("file_list", _FILES, takes_settings=False),
}
_PARTS = "save it with `coxswain memory document save FILE`, and give the agent document_search"
_MACHINE = "agents read no files of a machine: give the text as an input or under knowledge in a crew file"
_MCP = (
    "add the server with `coxswain tool source create`, and give the agent its tools with --tool {name}='SOURCE/*', or "
    "SOURCE/TOOL"
)
_CODE = "agents have tools and no interpreter: have a tool of your own do what the code is to do"
_INSTEAD = {
    **dict.fromkeys(
        (
            "RagTool", "PDFSearchTool", "TXTSearchTool", "CSVSearchTool", "JSONSearchTool", "XMLSearchTool",
            "MDXSearchTool", "DOCXSearchTool", "DirectorySearchTool", "CodeDocsSearchTool", "YoutubeVideoSearchTool",
            "YoutubeChannelSearchTool", "QdrantVectorSearchTool", "WeaviateVectorSearchTool", "LlamaIndexTool",
        ),
        _PARTS,
    ),
    "WebsiteSearchTool": f"give the agent web_fetch to read pages; or {_PARTS}",
    "FileReadTool": _MACHINE,
    "DirectoryReadTool": _MACHINE,
    "MCPServerAdapter": _MCP,
    "get_mcp_tools": _MCP,
    "CodeInterpreterTool": _CODE,
    "DatabricksQueryTool": "give the agent databricks_sql, with warehouse_id, catalog and schema in its config",
}  # fmt: skip
_OWN = (
    "Python tools of your own are not imported: serve them as a ToolProvider or have the operator install them, and "
    "give the name with --tool"
)
_OTHER = "this tool is not imported: `coxswain tool list` lists what is here; give its counterpart with --tool"


def counterpart(name: str, *, has_settings: bool) -> Counterpart | None:
    """The tool of the server that stands for a class of tools, if one does."""
    found = COUNTERPARTS.get(name)
    return found if found is not None and (found.takes_settings or not has_settings) else None


def instead(name: str, *, is_own: bool) -> str:
    """What to do about a class of tools that has no counterpart; ``is_own``: it is one of the project."""
    if is_own:
        return f"{_OWN} {name}=SOURCE/TOOL"
    return _INSTEAD[name].format(name=name) if name in _INSTEAD else f"{_OTHER} {name}=NAME"
