"""The crew process: CrewAI, forked warm for one segment of one execution, with one socket to its host."""
