#!/usr/bin/env python
import sys

from newsroom.crew import Newsroom


def run() -> None:
    Newsroom().crew().kickoff(inputs={"beat": "Harbours"})


def run_each() -> None:
    Newsroom().crew().kickoff_for_each(inputs=[{"beat": "Harbours"}, {"beat": "Rivers"}])


def train() -> None:
    Newsroom().crew().train(n_iterations=int(sys.argv[1]), filename=sys.argv[2], inputs={"beat": "Harbours"})


def replay() -> None:
    Newsroom().crew().replay(task_id=sys.argv[1])
