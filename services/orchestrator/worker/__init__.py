"""Worker hosts: what runs executions. The host (`host`) never imports CrewAI; crew processes (`engine`) hold nothing else."""
