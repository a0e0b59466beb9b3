#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mutex.h"
#include "vmm/base/newest_bytes.h"
#include "vmm/base/owned_fd.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
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
  std::optional<std::string> module{};       ///< Only messages whose origin (source path) contains this.
  std::optional<std::uint64_t> max_bytes{};  ///< That its file takes: the newest. kLeastBound or more.
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

  /// Applies what is present in `config`. Errors: the path cannot be opened; a limit, and no regular file. Nothing is changed
  /// then.
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

  /// A part of the log's file that is to become a hole.
  struct Trim {
    OwnedFd file;
    NewestBytes::Range range;
    unsigned number = 0;  ///< Which of the log's files it is.
  };
  /// `wanted` is called, on any thread, when the file of a log with max_bytes is nearly full: one that may wait for files then
  /// frees what begin_trim() says. Where nobody does, what has no room is dropped and counted.
  void on_trim_wanted(std::function<void()> wanted);
  /// None: there is nothing to free any more. Else end_trim() follows.
  [[nodiscard]] std::optional<Trim> begin_trim();
  void end_trim(const Trim& trim, bool freed);

  /// Messages that could not be written.
  [[nodiscard]] std::uint64_t missed() const noexcept { return missed_.load(std::memory_order_relaxed); }

 private:
  template <typename... Args>
  void log(LogLevel level, const LogFormat<std::type_identity_t<Args>...>& format, Args&&... args) {
    if (enabled(level))
      write_line(level, format.file, format.line, fmt::format(format.format, std::forward<Args>(args)...));
  }
  void greet() REQUIRES(mutex_);
  [[nodiscard]] int file() const REQUIRES(mutex_);
  /// Whether a line of a log with a limit may be written; asks for a trim where it is time for one.
  [[nodiscard]] bool has_room(std::size_t bytes) REQUIRES(mutex_);
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
  std::optional<NewestBytes> kept_ GUARDED_BY(mutex_);
  std::uint64_t size_ GUARDED_BY(mutex_) = 0;  // of the file, as far as it is known
  bool trimming_ GUARDED_BY(mutex_) = false;
  unsigned file_number_ GUARDED_BY(mutex_) = 0;
  std::function<void()> trim_wanted_ GUARDED_BY(mutex_);
};

/// Opens a file, FIFO or character device for lines of log, metrics or the guest's console: created 0600 where missing,
/// appended to, never blocking; a FIFO may lack a reader. No link is followed at the path's end, but for /dev/stdout,
/// /dev/stderr, /dev/fd/N and /proc/self/fd/N, which mean this process's descriptors. Errors, in which `what` names it:
/// a link; a regular file that is neither this user's nor root's; a directory, socket or block device; not permitted.
[[nodiscard]] Result<OwnedFd> open_line_sink(const std::string& path, std::string_view what);

/// Error: a sink whose oldest bytes cannot be freed, as it is no regular file. `path`: for the error; empty: it has none.
[[nodiscard]] Status check_bound(int file, std::string_view path);

/// Writes as much of `text` as goes without waiting for a reader; how much that was.
[[nodiscard]] std::size_t write_now(int fd, std::string_view text) noexcept;

/// Writes one line (with its newline), which a pipe takes whole or not at all while it is no longer than PIPE_BUF.
/// False where it was not taken whole.
[[nodiscard]] bool write_whole_line(int fd, std::string_view line) noexcept;

}  // namespace mayfly
