# mistral::cuda, the library with <mistral/cuda.hpp>: CUDA's runtime, cuBLASLt, and the kernels, which nvcc compiles
# once. Programs that link it are compiled by the C++ compiler alone. Built only where something links it; where CUDA's
# toolkit is not found, there is no such target.
#
#   MISTRAL_CUDA                  ON where the toolkit is found
#   MISTRAL_CUDA_ARCHITECTURES    the GPUs to compile for, by compute capability; newer ones compile for themselves

if(TARGET mistral_cuda)
    return()
endif()
find_package(CUDAToolkit 12.3 QUIET)  # the first whose graphs let kernels overlap
if(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE)
    option(MISTRAL_CUDA "Build mistral::cuda, for NVIDIA GPUs" ON)
else()
    option(MISTRAL_CUDA "Build mistral::cuda, for NVIDIA GPUs" OFF)
endif()
if(NOT MISTRAL_CUDA)
    return()
endif()
if(NOT CUDAToolkit_NVCC_EXECUTABLE)
    message(FATAL_ERROR "mistral::cuda needs NVIDIA's CUDA toolkit 12.3 or newer, which was not found.\n"
                        "Install it, tell where it is with -DCUDAToolkit_ROOT=..., or leave it out with "
                        "-DMISTRAL_CUDA=OFF.")
endif()

set(MISTRAL_CUDA_ARCHITECTURES 80 86 89 90 CACHE STRING "Compute capabilities to compile mistral::cuda for")
set(mistral_cuda_flags -std=c++20 -O3 -DNDEBUG --expt-relaxed-constexpr -Xcompiler=-fPIC --threads=2)
foreach(architecture IN LISTS MISTRAL_CUDA_ARCHITECTURES)
    list(APPEND mistral_cuda_flags -gencode=arch=compute_${architecture},code=sm_${architecture})
endforeach()
list(GET MISTRAL_CUDA_ARCHITECTURES -1 mistral_newest)
list(APPEND mistral_cuda_flags -gencode=arch=compute_${mistral_newest},code=compute_${mistral_newest})
# Sums that lack registers would wait in slow memory: among the project's own builds, that is an error.
if(PROJECT_IS_TOP_LEVEL)
    list(APPEND mistral_cuda_flags -Xptxas=-warn-spills,-Werror)
endif()
# Warnings of Eigen's, and of functions that are meant for the host alone.
list(APPEND mistral_cuda_flags -diag-suppress=20012,20014,554)

set(mistral_cuda_includes $<TARGET_PROPERTY:mistral::mistral,INTERFACE_INCLUDE_DIRECTORIES>)
set(mistral_cuda_objects)
foreach(source mistralCudaKernels mistralCudaAttention)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
    add_custom_command(OUTPUT ${object} DEPENDS ${CMAKE_CURRENT_LIST_DIR}/${source}.cu DEPFILE ${object}.d
                       COMMAND ${CUDAToolkit_NVCC_EXECUTABLE} ${mistral_cuda_flags}
                               "-I$<JOIN:${mistral_cuda_includes},;-I>"
                               -MD -MF ${object}.d -MT ${object} -c ${CMAKE_CURRENT_LIST_DIR}/${source}.cu -o ${object}
                       COMMENT "Building CUDA object ${source}.o" COMMAND_EXPAND_LISTS VERBATIM)
    list(APPEND mistral_cuda_objects ${object})
endforeach()

add_library(mistral_cuda STATIC EXCLUDE_FROM_ALL ${mistral_cuda_objects})
add_library(mistral::cuda ALIAS mistral_cuda)
set_source_files_properties(${mistral_cuda_objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
set_target_properties(mistral_cuda PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(mistral_cuda PUBLIC mistral::mistral CUDA::cudart CUDA::cublasLt)
