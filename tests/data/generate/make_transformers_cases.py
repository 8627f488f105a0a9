"""Writes transformers_cases.json: what the logits processors of transformers leave of random logits, in their order."""
import json
import pathlib
import random

import torch
import transformers
from transformers import (MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                          TopPLogitsWarper)

VOCAB, CASES = 16, 40


def probabilities(case: dict) -> list[float]:
    scores = torch.tensor([case["logits"]], dtype=torch.float64)
    recent = torch.tensor([case["recent"]])
    steps = [RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]), TemperatureLogitsWarper(case["temperature"])]
    steps += [TopKLogitsWarper(case["top_k"])] if case["top_k"] > 0 else []
    steps += [TopPLogitsWarper(case["top_p"])] if case["top_p"] < 1 else []
    steps += [MinPLogitsWarper(case["min_p"])] if case["min_p"] > 0 else []
    for step in steps:
        scores = step(recent, scores)
    return [round(p, 9) for p in scores.softmax(-1)[0].tolist()]


def main() -> None:
    generator = random.Random(1)
    uniform = lambda low, high: round(generator.uniform(low, high), 3)
    cases = []
    for _ in range(CASES):
        case = dict(logits=[uniform(-4, 4) for _ in range(VOCAB)],
                    recent=[generator.randrange(VOCAB) for _ in range(6)],
                    repetition_penalty=uniform(0.5, 2), temperature=uniform(0.3, 2),
                    top_k=generator.choice([0, 3, 8, 12]), top_p=generator.choice([1, uniform(0.1, 0.99)]),
                    min_p=generator.choice([0, uniform(0.01, 0.3)]))
        cases.append(case | dict(probabilities=probabilities(case)))
    text = ",\n".join(json.dumps(case) for case in cases)
    path = pathlib.Path(__file__).with_name("transformers_cases.json")
    path.write_text(f'{{"made_with": "transformers {transformers.__version__}", "cases": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
