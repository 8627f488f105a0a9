#!/bin/sh
# A program that chooses its instructions computes the same as one compiled for them.
#
#   same_results.sh PROGRAM REFERENCE INSTRUCTION_SET      exits with 77 where the processor lacks the set
set -eu

results=$("$1" "$3")
[ -n "$results" ] || { echo "no results"; exit 1; }
reference=$("$2")
if [ "$results" != "$reference" ]; then
    printf 'chosen at run time:\n%s\ncompiled for %s:\n%s\n' "$results" "$3" "$reference"
    exit 1
fi
