#pragma once

namespace mayfly::testing {

/// How often a test does the same again. A sanitizer judges each access, also one that went well by chance, so its build
/// needs no second hundred of them; to try chances is the release build's, which is several times as fast.
template <typename Count>
[[nodiscard]] constexpr Count repeats([[maybe_unused]] Count in_release, [[maybe_unused]] Count with_sanitizer) {
#ifdef MAYFLY_SANITIZED
  return with_sanitizer;
#else
  return in_release;
#endif
}

}  // namespace mayfly::testing
