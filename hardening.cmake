# What makes a mistake of ours hard to use, in all code that ends in a product binary, third-party sources included. Guests
# and their init do without: they have no attacker but themselves.
add_library(mayfly_hardening INTERFACE)
target_compile_options(mayfly_hardening INTERFACE -fPIE -fstack-protector-strong -fcf-protection=full)

# In a release: a debug build keeps what warns of uninitialized variables, and sanitizers check more than this does.
if(NOT MAYFLY_SANITIZED)
  target_compile_options(mayfly_hardening INTERFACE
    $<$<CONFIG:Release>:-ftrivial-auto-var-init=zero>
    "$<$<CONFIG:Release>:SHELL:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3>")
endif()

# Addresses that nobody knows beforehand; tables of addresses that are read-only from the start on; no stack and no data
# that executes, not even what shares a page with code.
set(hardened_link -static-pie -Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code)

# A list of what is to be relocated that takes a bit an address instead of 24 bytes, all of which are touched at each
# start. An older C library (before glibc 2.36) would start without having relocated anything.
include(CheckCXXSourceRuns)
set(CMAKE_REQUIRED_FLAGS -fPIE)
set(CMAKE_REQUIRED_LINK_OPTIONS ${hardened_link} -Wl,-z,pack-relative-relocs)
check_cxx_source_runs("
  static int number = 7;
  int* volatile address = &number;
  int main() { return *address == 7 ? 0 : 1; }" MAYFLY_PACKED_RELOCATIONS)
unset(CMAKE_REQUIRED_FLAGS)
unset(CMAKE_REQUIRED_LINK_OPTIONS)
if(MAYFLY_PACKED_RELOCATIONS)
  list(APPEND hardened_link -Wl,-z,pack-relative-relocs)
endif()
