// age_state FILE SECONDS: a state file becomes that of a snapshot taken so long before.

#include "tests/support/aged_state.h"

#include <cstdio>
#include <cstdlib>
#include <exception>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    mayfly::testing::age_state(argv[1], std::strtoull(argv[2], nullptr, 10));
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "age_state: %s\n", failure.what());
    return 1;
  }
}
