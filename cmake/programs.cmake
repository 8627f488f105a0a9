# What the project's own tests, examples and benchmarks share.

# Every warning is an error in the project's own code; the headers of dependencies are the compiler's system headers.
add_library(mistral_warnings INTERFACE)
target_compile_options(mistral_warnings INTERFACE
    $<IF:$<CXX_COMPILER_ID:MSVC>,/W4;/WX,-Wall;-Wextra;-Wpedantic;-Wconversion;-Werror>)
# GCC 12 sees copies that overlap in its own std::string (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(mistral_warnings INTERFACE -Wno-restrict)
endif()

# What a program of the project links.
add_library(mistral_program INTERFACE)
target_link_libraries(mistral_program INTERFACE mistral_native mistral_warnings)

# Finds a package that only the project's own programs need.
macro(mistral_find_for purpose package option)
    find_package(${package} QUIET)
    if(NOT ${package}_FOUND)
        message(FATAL_ERROR "mistral's ${purpose} need ${package}, which was not found.\n"
                            "Run ${PROJECT_SOURCE_DIR}/cmake/setup.sh, or leave them out with -D${option}=OFF.")
    endif()
endmacro()
