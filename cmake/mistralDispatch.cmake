# mistral::dispatch, the library for any machine: kernels are compiled for several instruction sets, and what the
# processor has is chosen at run time. On x86-64 Linux, with GNU's or LLVM's tools; elsewhere it is mistral::mistral,
# which computes with what the compiler's flags say. Built only where something links it.

if(TARGET mistral_dispatch)
    return()
endif()
if(NOT (CMAKE_SYSTEM_NAME STREQUAL Linux AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$"
        AND CMAKE_SIZEOF_VOID_P EQUAL 8 AND CMAKE_CXX_COMPILER_ID MATCHES "^(GNU|Clang)$" AND CMAKE_OBJCOPY))
    add_library(mistral_dispatch INTERFACE)
    target_link_libraries(mistral_dispatch INTERFACE mistral::mistral)
    add_library(mistral::dispatch ALIAS mistral_dispatch)
    return()
endif()

add_library(mistral_dispatch STATIC EXCLUDE_FROM_ALL)
add_library(mistral::dispatch ALIAS mistral_dispatch)
set_target_properties(mistral_dispatch PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(mistral_dispatch PUBLIC mistral::mistral)
target_compile_definitions(mistral_dispatch INTERFACE MISTRAL_DISPATCH)

# mistral_add_kernels(SET TYPE FLAG...): of the instruction set that the library calls TYPE.
function(mistral_add_kernels set type)
    set(kernels mistral_kernels_${set})
    add_library(${kernels} OBJECT EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/mistralKernels.cpp)
    # Position-independent for shared libraries. Optimised at once: what the linker optimises is no object file yet.
    set_target_properties(${kernels} PROPERTIES POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF)
    target_link_libraries(${kernels} PRIVATE mistral::mistral)
    target_compile_definitions(${kernels} PRIVATE MISTRAL_KERNELS=${kernels} MISTRAL_INSTRUCTION_SET=${type})
    target_compile_options(${kernels} PRIVATE ${ARGN} -fno-lto $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)

    # Templates and inline functions, the standard library's among them, are in every object that uses them, and the
    # linker takes one for all: it might be one that older processors cannot run. So all that an object defines is made
    # its own, save for the table; and groups, which linkers compare by name even so, are dissolved.
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${kernels}_$<CONFIG>.o)
    add_custom_command(OUTPUT ${object} DEPENDS $<TARGET_OBJECTS:${kernels}> VERBATIM
                       COMMAND ${CMAKE_OBJCOPY} --remove-section=.group --keep-global-symbol=${kernels}
                               $<TARGET_OBJECTS:${kernels}> ${object})
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    target_sources(mistral_dispatch PRIVATE ${object})
    add_dependencies(mistral_dispatch ${kernels})  # which Makefiles do not see in the object's name
endfunction()

set(mistral_flags_avx2 -mavx2 -mfma -mf16c)
set(mistral_flags_avx512_dot ${mistral_flags_avx2} -mavx512f -mavx512cd -mavx512dq -mavx512bw -mavx512vl -mavx512vnni
    -mavx512bf16)
mistral_add_kernels(baseline NativeInstructionSet)
mistral_add_kernels(avx2 xsimd::fma3<xsimd::avx2> ${mistral_flags_avx2})
mistral_add_kernels(avx512_dot Avx512Dot ${mistral_flags_avx512_dot})
