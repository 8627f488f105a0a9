# Finds what the library's headers include, for the build and for an installed package alike. A target that the
# surrounding project has already made is taken as it is. What lacks is named in `mistral_missing`.

function(mistral_find package target minimum)
    if(TARGET ${target})
        return()
    endif()
    find_package(${package} QUIET)
    if(NOT TARGET ${target})
        list(APPEND mistral_missing "${package} ${minimum} or newer (not found)")
    elseif(${package}_VERSION VERSION_LESS minimum)
        list(APPEND mistral_missing "${package} ${minimum} or newer (found ${${package}_VERSION} at ${${package}_DIR})")
    endif()
    set(mistral_missing "${mistral_missing}" PARENT_SCOPE)
endfunction()

set(mistral_missing "")
mistral_find(Eigen3 Eigen3::Eigen 3.4)
mistral_find(xsimd xsimd 8.1)
find_package(Threads REQUIRED)
list(JOIN mistral_missing ", " mistral_missing)

# The xsimd of Debian and Ubuntu links a library xtl, which holds no more than headers that mistral does not use.
if(TARGET xsimd AND NOT TARGET xtl)
    get_target_property(mistral_xsimd_links xsimd INTERFACE_LINK_LIBRARIES)
    if("xtl" IN_LIST mistral_xsimd_links)
        list(REMOVE_ITEM mistral_xsimd_links xtl)
        set_property(TARGET xsimd PROPERTY INTERFACE_LINK_LIBRARIES "${mistral_xsimd_links}")
    endif()
endif()
