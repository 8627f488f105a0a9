#!/bin/sh
# Looks into a program that chooses its instructions: no function that others could share has those of AVX, and the
# objects with kernels define nothing that others see but their table, run nothing at the program's start, and have no
# state, of which there would be several copies.
#
#   instructions.sh PROGRAM OBJECT...      exits with 77 where there are no tools
set -eu

for tool in objdump nm readelf; do
    command -v $tool >/dev/null || { echo "skipped: $tool is missing"; exit 77; }
done
program=$1
shift
status=0

for object; do
    symbols=$(nm --defined-only --extern-only "$object" | awk '{ print $3 }')
    case $symbols in
        mistral_kernels_baseline | mistral_kernels_avx2 | mistral_kernels_avx512_dot) ;;
        *) echo "$object defines: $symbols"; status=1 ;;
    esac
    readelf --section-headers --wide "$object" | sed 's/^ *\[ *[0-9]*\]//' | awk -v object="$object" '
        $1 ~ /^\.data/ && $1 !~ /^\.data\.rel\.ro|DW\.ref/ || $1 ~ /^\.(bss|tbss|tdata)/ { bad = $5 ~ /[^0]/ }
        $1 ~ /^\.(group|init_array|ctors)/ { bad = 1 }
        bad { print object " has " $1; found = 1; bad = 0 }
        END { exit found }' || status=1
done

# Names of AVX instructions begin with a v; a symbol of a type in lower case is local to its object.
{ nm --defined-only "$program"; objdump -d --no-show-raw-insn "$program"; } | awk '
    NF == 3 && length($1) == 16 && $2 ~ /^[A-Za-z]$/ { if ($2 !~ /t/) shared[$1] = 1; next }
    /^[0-9a-f]+ <.*>:$/ { address = $1; name = $2; seen = 0; next }
    !seen && $2 ~ /^v[a-z]/ {
        seen = 1
        ++functions
        if (address in shared) { print "AVX in " name; found = 1 }
    }
    END {
        if (functions == 0) { print "no AVX at all"; found = 1 }
        print functions + 0 " functions with AVX"
        exit found
    }' || status=1
exit $status
