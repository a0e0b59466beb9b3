# Policy of the presets that repeat the release build with other flags (CMakePresets.json includes it by
# CMAKE_PROJECT_INCLUDE): as little compiling as possible. The release build proves that each file of the product includes
# the headers that it uses.

include(${CMAKE_SOURCE_DIR}/tests/batches.cmake)

# A clang precompiled header holds absolute paths, so it differs between clones, and so would everything compiled with it.
# ccache hashes the file NAME.pch.sum instead where there is one (CCACHE_PCH_EXTSUM). Its content may be constant: clang
# names the headers within as dependencies, whose contents ccache compares. CMake's own options would give ccache the
# absolute path of the header.
function(share_precompiled_header target)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    get_target_property(directory ${target} BINARY_DIR)
    file(WRITE ${directory}/CMakeFiles/${target}.dir/cmake_pch.hxx.pch.sum "its headers are dependencies\n")
  endif()
endfunction()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
  set(CMAKE_CXX_COMPILE_OPTIONS_USE_PCH -include-pch <PCH_FILE>)
endif()

# What CLI11 and cpp-httplib expand to takes a sanitizer's build three times as long with an optimizer, and no test feels it;
# fuzz targets do.
function(do_not_optimize target)
  set_source_files_properties(${ARGN} TARGET_DIRECTORY ${target}
    PROPERTIES COMPILE_OPTIONS -O0 SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# What follows is about targets, so it is run when they are there.
function(mayfly_repeat)
  # The library headers that most files include, compiled once for our libraries and once for the tests.
  set(product_headers
    <algorithm> <array> <atomic> <cerrno> <charconv> <chrono> <cstdint> <cstring> <expected> <filesystem> <fstream>
    <functional> <map> <memory> <mutex> <optional> <span> <string> <string_view> <thread> <unordered_map> <utility>
    <variant> <vector>
    <fmt/format.h>)

  target_precompile_headers(mayfly_base PRIVATE ${product_headers})
  # Not monitor: no fuzz target has it, and what is not compiled as the others are cannot share their header.
  foreach(library config memory io kvm boot devices virtio mmds net block machine cli doctor api client
          image template)
    target_precompile_headers(mayfly_${library} REUSE_FROM mayfly_base)
  endforeach()
  share_precompiled_header(mayfly_base)
  if(MAYFLY_TESTS)
    share_precompiled_header(unit_tests)
  endif()

  set(cli ${CMAKE_SOURCE_DIR}/vmm/cli)
  do_not_optimize(mayfly_cli ${cli}/options.cpp ${cli}/terminal_options.cpp ${cli}/common_options.cpp ${cli}/command_tree.cpp)
  do_not_optimize(mayfly-seccompile ${CMAKE_SOURCE_DIR}/jailer/seccomp/compile_main.cpp)
  do_not_optimize(mayfly_template ${CMAKE_SOURCE_DIR}/rootfs-tools/template/arguments.cpp)
  if(NOT MAYFLY_FUZZ)
    do_not_optimize(mayfly_jailer ${CMAKE_SOURCE_DIR}/jailer/arguments.cpp)
    do_not_optimize(mayfly_api ${CMAKE_SOURCE_DIR}/api/http_codec.cpp)
  endif()
  if(MAYFLY_TESTS)
    do_not_optimize(host_agent ${CMAKE_SOURCE_DIR}/tests/host-agent/main.cpp)
  endif()

  foreach(library base config memory io kvm boot devices virtio mmds net block snapshot machine cli doctor monitor api client
          jailer filter_compiler host_agent image template)
    if(TARGET mayfly_${library})
      batch(mayfly_${library} 8)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL mayfly_repeat)
