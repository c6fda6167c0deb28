"""What CrewAI needs from outside its process, asked of the host over the crew process's one socket."""
