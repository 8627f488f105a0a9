# Refuses a compiler that is known to be too old for the library's C++20, instead of a page of template errors.

set(mistral_minimum_GNU 12)
set(mistral_minimum_Clang 14)
set(mistral_minimum_AppleClang 15)
set(mistral_minimum_MSVC 19.30)

set(mistral_minimum "${mistral_minimum_${CMAKE_CXX_COMPILER_ID}}")
if(mistral_minimum AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS mistral_minimum)
    message(FATAL_ERROR "mistral needs ${CMAKE_CXX_COMPILER_ID} ${mistral_minimum} or newer, found version "
                        "${CMAKE_CXX_COMPILER_VERSION} at ${CMAKE_CXX_COMPILER}.\n"
                        "Choose another compiler with -DCMAKE_CXX_COMPILER=..., in an empty build directory.")
endif()
