from crewai import LLM, Agent, Crew, Process, Task
from crewai.knowledge.source.pdf_knowledge_source import PDFKnowledgeSource
from crewai.project import CrewBase, agent, crew, task
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai_tools import CodeInterpreterTool, FileWriterTool, MCPServerAdapter, PDFSearchTool, WebsiteSearchTool

MODEL = "openai/capable"
strong = LLM(model=MODEL, temperature=0.3, max_tokens=800, base_url="http://localhost:11434")


@CrewBase
class Analysts:
    """Judges companies."""

    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"
    mcp_server_params = {"url": "http://localhost:8000/mcp"}

    def __init__(self) -> None:
        self.search = WebsiteSearchTool()

    @agent
    def analyst(self) -> Agent:
        return Agent(
            config=self.agents_config["analyst"],
            llm=strong,
            function_calling_llm=MODEL,
            tools=[self.search, PDFSearchTool(pdf="report.pdf"), CodeInterpreterTool(), FileWriterTool()],
            max_reasoning_attempts=2,
            step_callback=lambda step: print(step),
            multimodal=True,
        )

    @agent
    def critic(self) -> Agent:
        return Agent(
            config=self.agents_config["critic"],
            llm=strong,
            tools=self.get_mcp_tools("search"),
            mcps=["https://mcp.example.com/mcp"],
            apps=["gmail"],
            guardrail=lambda output: (True, output),
            system_template="{{ .System }}",
            skills=["./skills/doubt"],
        )

    @task
    def judge_task(self) -> Task:
        return Task(
            config=self.tasks_config["judge_task"],
            guardrail=LLMGuardrail(description="The judgement names a figure.", llm=strong),
            output_file="../judgement.md",
        )

    @task
    def doubt_task(self) -> Task:
        return Task(config=self.tasks_config["doubt_task"], allow_crewai_trigger_context=True)

    @crew
    def crew(self) -> Crew:
        return Crew(
            agents=self.agents,
            tasks=self.tasks,
            process=Process.sequential,
            planning=True,
            planning_llm=MODEL,
            memory=True,
            embedder={"provider": "ollama", "config": {"model_name": "nomic-embed-text"}},
            knowledge_sources=[PDFKnowledgeSource(file_paths=["report.pdf"])],
            max_rpm=60,
            cache=True,
            share_crew=True,
            stream=True,
            tracing=True,
            output_log_file="crew.log",
        )
