"""The rows that bench/run.sh writes."""
import json
import re


def read(path):
    """The rows by their names, without the number of iterations that ends some; and what is known of the machine."""
    with open(path) as file:
        content = json.load(file)
    return {re.sub(r"/iterations:\d+$", "", row["name"]): row for row in content["benchmarks"]}, content["context"]


def seconds(row):
    """Of one iteration."""
    return row["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[row["time_unit"]]
