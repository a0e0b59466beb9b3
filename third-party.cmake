# Libraries from Debian's packages. Where a package has no static library, we compile it ourselves from the package's
# headers or source, so that the product links statically and drags in nothing it does not use.
find_package(Threads REQUIRED)

# fmt: the package has no libfmt.a; its format-inl.h instantiated once is the same code.
add_library(mayfly_fmt STATIC vmm/base/fmt_instances.cc)
target_link_libraries(mayfly_fmt PRIVATE mayfly_hardening)

# liburing: the package has liburing.a.
find_library(LIBURING_ARCHIVE NAMES liburing.a REQUIRED)
add_library(mayfly_uring INTERFACE)
target_link_libraries(mayfly_uring INTERFACE ${LIBURING_ARCHIVE})

# xxHash: the package has libxxhash.a.
find_library(XXHASH_ARCHIVE NAMES libxxhash.a REQUIRED)
add_library(mayfly_xxhash INTERFACE)
target_link_libraries(mayfly_xxhash INTERFACE ${XXHASH_ARCHIVE})

# For images: their archives, what layers are packed by, their digests, and the file system that they become. Of libarchive
# tar alone is linked; of nettle, which libarchive itself computes digests by, SHA-256 alone. libsquashfs has each compressor
# that a squashfs may have.
add_library(mayfly_image_libraries INTERFACE)
foreach(library archive nettle squashfs zstd lz4 lzma z)
  # All of libarchive refers to more libraries; only what is used does not, which takes a linker that drops the rest.
  if(MAYFLY_STATIC)
    find_library(MAYFLY_${library}_PATH NAMES lib${library}.a REQUIRED)
  else()
    find_library(MAYFLY_${library}_PATH NAMES ${library} REQUIRED)
  endif()
  target_link_libraries(mayfly_image_libraries INTERFACE ${MAYFLY_${library}_PATH})
endforeach()

# CLI11: header-only.
find_package(CLI11 REQUIRED)
add_library(mayfly_cli11 INTERFACE)
target_link_libraries(mayfly_cli11 INTERFACE CLI11::CLI11)

# simdjson: from Debian 13 on the package has a static library. Debian 12's has a shared one, so we compile the package's
# source.
find_library(SIMDJSON_ARCHIVE NAMES libsimdjson_static.a)
set(sources cpp-httplib)
if(NOT SIMDJSON_ARCHIVE)
  list(APPEND sources simdjson)
endif()

# cpp-httplib: Debian ships it as a shared library (with OpenSSL, zlib and Brotli); we compile the same version from the
# package's source without those.
execute_process(
  COMMAND ${CMAKE_SOURCE_DIR}/.ci/fetch-sources ${sources}
  OUTPUT_VARIABLE fetched
  OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" fetched "${fetched}")
list(GET fetched 0 httplib_dir)

add_library(mayfly_httplib INTERFACE)
target_include_directories(mayfly_httplib SYSTEM INTERFACE ${httplib_dir})

# Requests are short: the portable implementation alone is used (vmm/base/json_value.cpp), since choosing among several asks
# CPUID, which a virtual host emulates at some 7 us each. Where we compile it, the others are left out.
if(SIMDJSON_ARCHIVE)
  add_library(mayfly_simdjson INTERFACE)
  target_link_libraries(mayfly_simdjson INTERFACE ${SIMDJSON_ARCHIVE})
else()
  list(GET fetched 1 simdjson_dir)
  add_library(mayfly_simdjson STATIC ${simdjson_dir}/simdjson.cpp)
  target_link_libraries(mayfly_simdjson PRIVATE mayfly_hardening)
  target_include_directories(mayfly_simdjson SYSTEM PUBLIC ${simdjson_dir})
  target_compile_definitions(
    mayfly_simdjson PRIVATE SIMDJSON_IMPLEMENTATION_ICELAKE=0 SIMDJSON_IMPLEMENTATION_HASWELL=0
                            SIMDJSON_IMPLEMENTATION_WESTMERE=0)
endif()
