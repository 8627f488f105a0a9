# Installs the headers and the package that find_package(mistral) finds.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/mistral)
install(DIRECTORY include/mistral TYPE INCLUDE)
install(TARGETS mistral mistral_native EXPORT mistralTargets)
install(EXPORT mistralTargets NAMESPACE mistral:: DESTINATION ${package_dir})

configure_package_config_file(cmake/mistralConfig.cmake.in ${PROJECT_BINARY_DIR}/mistralConfig.cmake
                              INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mistralConfigVersion.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/mistralConfig.cmake ${PROJECT_BINARY_DIR}/mistralConfigVersion.cmake
              cmake/mistralDependencies.cmake cmake/mistralDispatch.cmake cmake/mistralKernels.cpp
              cmake/mistralCuda.cmake cmake/mistralCudaKernels.cu cmake/mistralCudaAttention.cu
        DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/mistral)
