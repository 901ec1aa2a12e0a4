"""FastAPI on uvicorn with lists of numbers as JSON: the handler that people write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from simulations.benchmarks.in_process import InProcess
from simulations.benchmarks.serving.servers.http import run


class Question(BaseModel):
    """The body of a request: rows of numbers."""

    inputs: list[list[float]]


class Answer(BaseModel):
    """The body of an answer: by output, its rows."""

    outputs: dict[str, list[Any]]


def application(model: InProcess) -> FastAPI:
    """The application."""

    def infer(question: Question) -> Answer:
        outputs = model.infer(np.array(question.inputs, np.float32))
        return Answer(outputs={name: value.tolist() for name, value in outputs.items()})

    async def infer_inline(question: Question) -> Answer:
        return infer(question)

    # FastAPI calls a plain function in a thread, and a coroutine on the loop.
    made = FastAPI()
    made.add_api_route("/infer", infer_inline if model.is_short() else infer, methods=["POST"])
    return made


if __name__ == "__main__":
    run(application(InProcess(Path(sys.argv[1]))), int(sys.argv[2]))
