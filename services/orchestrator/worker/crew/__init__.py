"""The crew process: CrewAI, forked warm for one segment of one execution, with one socket to its host.

The only package that imports crewai. CrewAI gets everything from outside its process through the host.
"""
