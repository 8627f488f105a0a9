#!/bin/sh
# Runs a program on another processor, as QEMU emulates it: it takes the best instruction set of that one, refuses a
# larger one by name, and writes what it writes here.
#
#   processor.sh PROCESSOR INSTRUCTION_SET PROGRAM MODEL      exits with 77 where there is no QEMU
set -eu

command -v qemu-x86_64 >/dev/null || { echo "skipped: qemu-x86_64 is missing (Debian's package qemu-user)"; exit 77; }
there() { qemu-x86_64 -cpu "$1" "$program" "$model" ${2:+"$2"} 2>&1 | grep -v '^qemu-x86_64: warning: '; }
program=$3
model=$4

here=$("$program" "$model" baseline)
text=$(there "$1")
[ "$text" = "$2${here#baseline}" ] || { printf 'here:\n%s\non %s:\n%s\n' "$here" "$1" "$text"; exit 1; }

refusal=$(there "$1" avx512_dot)
[ "$refusal" = "the instruction set avx512_dot was asked for, and this processor's best is $2" ] ||
    { echo "avx512_dot on $1: $refusal"; exit 1; }
