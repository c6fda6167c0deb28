"""Worker hosts, which run executions: `host` never imports CrewAI, crew processes (`engine`) hold little else."""
