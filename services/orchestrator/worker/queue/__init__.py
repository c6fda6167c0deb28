"""The queue of segments: gives them to hosts, limits them by group, and gives back what dead hosts held.

The only package that imports dbos.
"""
