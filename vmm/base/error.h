#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/core.h>

/// Failures that a user can act on.
///
///   Result<OwnedFd> open_kernel(const std::string& path) {
///     OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
///     if (!file) return fail_errno(ErrorKind::NotFound, "cannot open the kernel image {}", path);
///     return file;
///   }
///   auto kernel = open_kernel(path);
///   if (!kernel) return propagate(kernel, "boot-source");
///
/// Set-up, snapshot and API work returns Result; the data path reports in-band and counts (see metrics.h).
namespace mayfly {

enum class ErrorKind {
  InvalidArgument,  ///< A value that a user or a client gave is wrong.
  NotFound,         ///< A file, a path of the API or a device is not there.
  Permission,       ///< The host does not let us.
  State,            ///< The request is not legal in the machine's present state.
  Unsupported,      ///< The host or this build cannot do it.
  TooLarge,         ///< Over a limit that the message names.
  System,           ///< A system call failed.
  Kvm,              ///< A KVM ioctl failed.
  Guest,            ///< The guest did what cannot be served.
};

/// One failure: its kind and a sentence naming the field or file, the value and the remedy.
struct Error {
  ErrorKind kind;
  std::string message;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

/// An error from a format string.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{kind, fmt::format(format, std::forward<Args>(args)...)});
}

/// The text of an errno value, such as "No such file or directory (ENOENT)". Safe on any thread.
[[nodiscard]] std::string errno_text(int error_number);

/// The kind that an errno of a file operation means; `otherwise` where errno says nothing more exact.
[[nodiscard]] ErrorKind kind_of_errno(int error_number, ErrorKind otherwise) noexcept;

/// An error from a format string, followed by ": " and the text of errno as it was at the call.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail_errno(ErrorKind otherwise, fmt::format_string<Args...> format,
                                                Args&&... args) {
  const int error_number = errno;
  return std::unexpected(Error{kind_of_errno(error_number, otherwise),
                               fmt::format(format, std::forward<Args>(args)...) + ": " + errno_text(error_number)});
}

/// The error of a failed result, to return from a function of another result type.
template <typename T>
[[nodiscard]] std::unexpected<Error> propagate(Result<T>& failed) {
  return std::unexpected(std::move(failed.error()));
}

/// The same, with what was being done put before it: "context: message".
template <typename T>
[[nodiscard]] std::unexpected<Error> propagate(Result<T>& failed, std::string_view context) {
  return std::unexpected(Error{failed.error().kind, fmt::format("{}: {}", context, failed.error().message)});
}

/// Ends the process with a message: an invariant of our own is broken, and going on could corrupt a guest's data.
[[noreturn]] void invariant_broken(const char* what, const char* file, int line) noexcept;

/// Checks an invariant of our own (never input). Stays on in release builds.
inline void ensure(bool holds, const char* what, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) noexcept {
  if (!holds) [[unlikely]]
    invariant_broken(what, file, line);
}

}  // namespace mayfly
