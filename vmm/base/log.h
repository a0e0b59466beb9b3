#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mutex.h"
#include "vmm/base/owned_fd.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/core.h>

/// The log of one machine: one line a message, to standard error until a path is given.
///
///   Log log{"vm-7"};
///   log.info("booting {} with {} vCPUs", path, count);
///   2026-11-21T07:45:12.123456Z [vm-7:INFO] booting ...
///
/// The brackets are the dialect's, whose clients look into them: id, level, origin as far as they are shown.
///
/// A reader that stops or goes away never stops the machine: what cannot be written at once is dropped and counted.
/// Control characters of what a message quotes become question marks, so that nobody's path makes a line of its own.
namespace mayfly {

enum class LogLevel { Off, Error, Warning, Info, Debug, Trace };

/// What PUT /logger changes; only what is present.
struct LoggerConfig {
  std::optional<std::string> log_path{};
  std::optional<LogLevel> level{};
  std::optional<bool> show_level{};
  std::optional<bool> show_log_origin{};
  std::optional<std::string> module{};  ///< Only messages whose origin (source path) contains this.
};

/// A format string that remembers where it stands in the source.
template <typename... Args>
struct LogFormat {
  template <typename S>
  consteval LogFormat(const S& text, const char* source_file = __builtin_FILE(),  // NOLINT: implicit by design
                      int source_line = __builtin_LINE())
      : format(text), file(source_file), line(source_line) {}
  fmt::format_string<Args...> format;
  const char* file;
  int line;
};

/// Lets through at most `kBurst` messages a second of a kind that a guest or a client can cause at will.
class LogRate {
 public:
  static constexpr unsigned kBurst = 10;
  /// True where one more message may be written now. Any thread.
  [[nodiscard]] bool allow() noexcept;

 private:
  std::atomic<std::uint64_t> second_{0};
  std::atomic<unsigned> count_{0};
};

/// All members are safe on any thread.
class Log {
 public:
  /// `greeting`: the first line of the first file that the log goes to, whatever the level; none where empty.
  explicit Log(std::string id, std::string greeting = {}) : id_(std::move(id)), greeting_(std::move(greeting)) {}

  /// Applies what is present in `config`. Errors: the path cannot be opened; nothing is changed then.
  [[nodiscard]] Status configure(const LoggerConfig& config);

  [[nodiscard]] bool enabled(LogLevel level) const noexcept { return level <= level_.load(std::memory_order_relaxed); }

  template <typename... Args>
  void error(LogFormat<std::type_identity_t<Args>...> format, Args&&... args) {
    log(LogLevel::Error, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void warning(LogFormat<std::type_identity_t<Args>...> format, Args&&... args) {
    log(LogLevel::Warning, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void info(LogFormat<std::type_identity_t<Args>...> format, Args&&... args) {
    log(LogLevel::Info, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void debug(LogFormat<std::type_identity_t<Args>...> format, Args&&... args) {
    log(LogLevel::Debug, format, std::forward<Args>(args)...);
  }

  /// A line at level Error for a signal handler: past all locks, and nothing is allocated. Levels, origins and modules
  /// do not matter to it.
  void urgent(std::string_view message) const noexcept;

  /// Whether lines go to standard error, where a message for the user would be their double.
  [[nodiscard]] bool on_standard_error();

  /// Messages that could not be written.
  [[nodiscard]] std::uint64_t missed() const noexcept { return missed_.load(std::memory_order_relaxed); }

 private:
  template <typename... Args>
  void log(LogLevel level, const LogFormat<std::type_identity_t<Args>...>& format, Args&&... args) {
    if (enabled(level))
      write_line(level, format.file, format.line, fmt::format(format.format, std::forward<Args>(args)...));
  }
  void greet() REQUIRES(mutex_);
  void write_line(LogLevel level, std::string_view file, int line, std::string_view message);

  const std::string id_;
  std::atomic<LogLevel> level_{LogLevel::Info};
  std::atomic<std::uint64_t> missed_{0};
  std::atomic<int> descriptor_{2};  // where lines go: file_'s, or standard error
  Mutex mutex_;
  std::string greeting_ GUARDED_BY(mutex_);
  OwnedFd file_ GUARDED_BY(mutex_);  // none: standard error
  bool show_level_ GUARDED_BY(mutex_) = true;
  bool show_origin_ GUARDED_BY(mutex_) = false;
  std::string module_ GUARDED_BY(mutex_);
};

/// Opens a file, FIFO or character device for lines of log, metrics or the guest's console: created 0600 where missing,
/// appended to, never blocking; a FIFO may lack a reader. No link is followed at the path's end, but for /dev/stdout,
/// /dev/stderr, /dev/fd/N and /proc/self/fd/N, which mean this process's descriptors. Errors, in which `what` names it:
/// a link; a regular file that is neither this user's nor root's; a directory, socket or block device; not permitted.
[[nodiscard]] Result<OwnedFd> open_line_sink(const std::string& path, std::string_view what);

/// Writes as much of `text` as goes without waiting for a reader; how much that was.
[[nodiscard]] std::size_t write_now(int fd, std::string_view text) noexcept;

/// Writes one line (with its newline), which a pipe takes whole or not at all while it is no longer than PIPE_BUF.
/// False where it was not taken whole.
[[nodiscard]] bool write_whole_line(int fd, std::string_view line) noexcept;

}  // namespace mayfly
