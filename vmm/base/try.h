#pragma once

#include "vmm/base/error.h"

#include <type_traits>
#include <utility>

/// Set-up code is a list of steps, each of which may fail:
///
///   auto memory = TRY(GuestMemory::create(options));   // the value, or the enclosing function returns the error
///   TRY(vm.map_memory(memory, false));                 // a Status
///
/// A statement, or what a variable is set to: never within the braces or the arguments of something else, since GCC
/// does not destroy what an expression has made before a return from its middle.
///
/// A macro, since no function can return from its caller. With it, set-up code reads as its steps in their order.
namespace mayfly::detail {

template <typename Value>
[[nodiscard]] Value take_value(Result<Value>& result) {
  if constexpr (!std::is_void_v<Value>) return std::move(*result);
}

}  // namespace mayfly::detail

// NOLINTBEGIN(cppcoreguidelines-macro-usage)
#define TRY(...)                                             \
  ({                                                         \
    auto try_result = (__VA_ARGS__);                         \
    if (!try_result) return ::mayfly::propagate(try_result); \
    ::mayfly::detail::take_value(try_result);                \
  })
// NOLINTEND(cppcoreguidelines-macro-usage)
