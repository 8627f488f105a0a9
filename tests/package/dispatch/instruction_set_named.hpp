#pragma once

#include <mistral/device/cpu/dispatched_cpu.hpp>

#include <string_view>

inline mistral::InstructionSet instruction_set_named(std::string_view text) {
    using mistral::InstructionSet;
    for (const auto set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512_dot})
        if (mistral::name(set) == text) return set;
    mistral::fail("no instruction set is called ", text);
}
