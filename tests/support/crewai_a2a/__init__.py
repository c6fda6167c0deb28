"""CrewAI's own client of A2A, and the packages that it needs beside CrewAI."""
