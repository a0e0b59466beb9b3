# For builds that repeat the release build with other flags: it is the one that proves that each file includes what it
# uses, and that warns of what only an optimizer sees in tests.

# The library headers that most files include, compiled once for our libraries and once for the tests.
set(product_headers
  <algorithm> <array> <atomic> <cerrno> <charconv> <chrono> <cstdint> <cstring> <expected> <filesystem> <fstream>
  <functional> <map> <memory> <mutex> <optional> <span> <string> <string_view> <thread> <unordered_map> <utility>
  <variant> <vector>
  <fmt/format.h>)

target_precompile_headers(mayfly_base PRIVATE ${product_headers})
foreach(library vmm mmds virtio machine cli api)
  target_precompile_headers(mayfly_${library} REUSE_FROM mayfly_base)
endforeach()

if(MAYFLY_TESTS)
  # What is under test stays optimized; for GoogleTest's macros that takes half of the time.
  target_compile_options(unit_tests PRIVATE -O0)
  target_compile_options(integration_tests PRIVATE -O0)
  target_precompile_headers(unit_tests PRIVATE ${product_headers} <random> <set> <sstream> <gtest/gtest.h>)
  target_precompile_headers(integration_tests REUSE_FROM unit_tests)
endif()
