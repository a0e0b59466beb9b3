#pragma once

#include "jailer/seccomp/blob.h"
#include "vmm/base/error.h"
#include "vmm/base/log.h"
#include "vmm/base/thread_kind.h"

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

/// The filters of this process's threads.
///
///   auto filters = ThreadFilters::open({});                // the ones that the build made of filters.txt
///   filters->watch(log);                                   // what a violation says, and where
///   ...
///   if (auto in = filters->enter(ThreadKind::Loop); !in) return in;   // on the thread that is meant
///
/// A call that a thread's filter does not allow raises SIGSYS, whose handler says which in one line of the log and ends
/// the process with kExitViolation.
namespace mayfly::seccomp {

/// The process's exit code after a violation; the dialect's.
inline constexpr int kExitViolation = 148;

struct FilterOptions {
  bool off = false;                   ///< --no-seccomp
  std::optional<std::string> file{};  ///< --seccomp-filter: compiled filters in place of the built-in ones.
};

class ThreadFilters {
 public:
  /// Errors, naming --seccomp-filter: the file cannot be read, or is no blob for this monitor.
  [[nodiscard]] static Result<ThreadFilters> open(const FilterOptions& options);

  ThreadFilters(ThreadFilters&&) noexcept = default;
  ThreadFilters& operator=(ThreadFilters&&) = delete;
  ~ThreadFilters();

  /// Sets no_new_privs, and the handler of violations, which writes to `log`; that outlives this object. No other
  /// thread exists. Errors: the kernel refuses.
  [[nodiscard]] Status watch(const Log& log);
  /// In a child process, made by fork, of one that watches: the handler writes to `log` from now on.
  void watch_inherited(const Log& log);
  /// Puts the calling thread, and those that it makes from now on, under the filter of `kind`, for ever: a second one
  /// narrows the first. Any thread. Errors: the kernel has no filters or refuses this one.
  [[nodiscard]] Status enter(ThreadKind kind) const;

 private:
  ThreadFilters() = default;

  std::vector<std::byte> file_;  // what programs_ points into, unless that is built in
  std::optional<FilterPrograms> programs_;
  bool watching_ = false;
};

}  // namespace mayfly::seccomp
