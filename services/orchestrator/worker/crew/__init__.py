"""The crew process: CrewAI, forked warm for one segment of one execution, with one socket to its host.

The only package that imports crewai. Whatever CrewAI needs from outside its process it asks of the host.
"""
