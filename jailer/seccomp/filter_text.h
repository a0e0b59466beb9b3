#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// System call filters as people write them (filters.txt): which calls, with which arguments, each thread may make.
///
///   [every]                                    every kind of thread may
///   futex
///   mmap(_, _, within PROT_READ|PROT_WRITE)    no bit but these in the third argument
///   tgkill(own-process)                        the process that makes the call
///   clone3 -> ENOSYS                           is answered without being made
///   [loop]
///   ioctl(_, KVM_CREATE_VM)                    # a comment
///   clock_gettime       rare: where the vDSO cannot answer; no test has such a host
///   [running] on loop                          a second filter of that thread, later: what it says, [loop] may as well
///   read
///   [revertible] on loop as running            another second filter: what it says, and what [running] says
///   [live_revertible] on loop as live revertible    and one that has what these two say
///   ioctl(_, KVM_SET_REGS)
///   [brancher] as loop vcpu                    may what it says, and what these two say
///   [vcpu] made by loop                        may what it says, as may [loop], whose filter it inherits
///   ioctl(_, KVM_RUN)
///
/// Pure; numbers of calls are the compiler's matter.
namespace mayfly::seccomp {

/// What one argument must be.
struct Condition {
  enum class Kind { Equals, Within, OwnProcess };
  unsigned argument = 0;  ///< 0 to 5.
  Kind kind = Kind::Equals;
  std::uint64_t value = 0;  ///< Equals: this. Within: no bit outside this. OwnProcess: 0.
  friend bool operator==(const Condition&, const Condition&) = default;
};

/// One line.
struct Entry {
  std::size_t line = 0;  ///< From 1.
  std::string call;
  std::vector<Condition> conditions;  ///< In the order of arguments, each at most once.
  std::optional<int> answer;          ///< An errno in place of the call.
  bool rare = false;                  ///< Its reason says why no test needs it.
};

struct ThreadFilter {
  std::string name;
  /// The thread whose filter it is put on top of: its maker, or itself earlier; empty: none.
  std::string under;
  /// The filters before this one, on the same thread where it is on top of another, whose lines are this one's as well.
  std::vector<std::string> as{};
  std::vector<Entry> entries{};
};

struct FilterText {
  std::vector<Entry> every;
  std::vector<ThreadFilter> threads;
};

/// The value of a constant; nothing where the name is not known.
using ConstantLookup = std::function<std::optional<std::uint64_t>(std::string_view)>;

/// Errors say line, word and remedy.
[[nodiscard]] Result<FilterText> parse_filters(std::string_view text, const ConstantLookup& constant);

/// All that a thread's filter must let through: its own entries, those of the filters that it is `as`, those of every
/// thread, and those of the filters that come on top of it. A line that another allows already is not in it.
[[nodiscard]] std::vector<Entry> entries_of(const FilterText& text, const ThreadFilter& thread);

/// What the filter below lets through and this one, on top of it, must not. Nothing where there is none below, or where a
/// line of it lets calls through of which this one allows some.
[[nodiscard]] std::optional<std::vector<Entry>> withdrawn_by(const FilterText& text, const ThreadFilter& thread);

}  // namespace mayfly::seccomp
