#!/bin/sh
# Looks into a program for what makes a register tile slow, and no other test sees: sums that the compiler keeps in
# memory. Every innermost loop of 16 dot products or more may touch the stack with a whole register once in 8 of them.
# Those of RowBlock may multiply and add instead, where there are no instructions for dot products, 10 times or more.
# PanelTiles's add_group and DotTile must be parts of their callers, whose sums they would have by their address.
#
#   spills.sh PROGRAM      exits with 77 where there is nothing to look at
set -eu

command -v objdump >/dev/null || { echo "skipped: objdump is missing"; exit 77; }
objdump -d --no-show-raw-insn "$1" | awk '
    /^[0-9a-f]+ <.*>:$/ {
        name = $2; rows = /RowBlock/; stack = "\\(%rsp"
        if (/add_group|DotTile/) { ++bad; print "sums by their address in " name }
        count = 0; innermost_from = 0; split("", at); next
    }
    $3 == "%rsp,%rbp" { stack = "\\(%r[sb]p" }  # elsewhere it is a register like others
    $1 ~ /^[0-9a-f]+:$/ {
        at[substr($1, 1, length($1) - 1)] = ++count
        is_dot[count] = $2 ~ (rows ? "^(vpdpbusd|vdpbf16ps|vpmaddwd|vfmadd231ps)$" : "^(vpdpbusd|vdpbf16ps)$")
        is_spill[count] = /[yz]mm/ && $0 ~ stack
        is_exit[count] = $2 ~ /^(call|ret)/  # which no such loop has: a jump back across one is only the order of code
        if ($2 ~ /^j/ && ($3 in at)) {
            dots = spills = exits = 0
            for (i = at[$3]; i <= count; ++i) { dots += is_dot[i]; spills += is_spill[i]; exits += is_exit[i] }
            if (exits > 0) next
            if (at[$3] > innermost_from && dots >= (rows ? 10 : 16)) {
                ++loops
                if (8 * spills > dots) {
                    ++bad
                    print spills " registers on the stack beside " dots " dot products in " name
                }
            }
            if (dots > 0) innermost_from = count  # a loop around this one would count its dot products again
        }
    }
    END {
        if (loops == 0) { print "skipped: no loop of dot products, which this processor may not have"; exit 77 }
        print loops " loops of dot products, " bad + 0 " loops or functions with sums in memory"
        exit bad > 0
    }'
