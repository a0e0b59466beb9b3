#pragma once

#include "vmm/base/error.h"

#include <cstdlib>
#include <utility>

/// What a fuzz target expects whatever the input says.
namespace mayfly {

inline void must(bool holds) {
  if (!holds) std::abort();
}

template <typename T>
T must(Result<T> result) {
  must(result.has_value());
  return std::move(*result);
}

}  // namespace mayfly
