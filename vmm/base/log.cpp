#include "vmm/base/log.h"

#include "vmm/base/clock.h"
#include "vmm/base/utf8.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <iterator>
#include <span>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr std::array<std::string_view, 6> kLevelNames = {"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"};

/// Longer messages are cut, so that a line goes into a pipe whole or not at all (PIPE_BUF).
constexpr std::size_t kMaximumLine = 4096;

/// By arithmetic, not gmtime(), which reads the host's time zone file at its first call.
template <typename Output>
Output format_time(Output output) {
  using namespace std::chrono;
  const auto now = time_point_cast<microseconds>(system_clock::now());
  const auto day = floor<days>(now);
  const year_month_day date{day};
  const hh_mm_ss time{now - day};
  return fmt::format_to(output, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", static_cast<int>(date.year()),
                        static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), time.hours().count(),
                        time.minutes().count(), time.seconds().count(), time.subseconds().count());
}

/// A line stays one line, and tells the terminal that shows it nothing but text.
void mask_controls(std::span<char> text) {
  while (!text.empty()) {
    const std::string_view rest{text.data(), text.size()};
    const std::size_t length = std::max<std::size_t>(utf8_length(rest), 1);
    if (is_control(rest.substr(0, length))) std::ranges::fill(text.first(length), '?');
    text = text.subspan(length);
  }
}

}  // namespace

bool LogRate::allow() noexcept {
  const std::uint64_t second = clock_ns(CLOCK_MONOTONIC_COARSE) / 1'000'000'000;
  if (second_.exchange(second, std::memory_order_relaxed) != second) count_.store(0, std::memory_order_relaxed);
  return count_.fetch_add(1, std::memory_order_relaxed) < kBurst;
}

namespace {

/// The descriptor of this process that a path such as /dev/stdout means: whoever started this process gave it. None for
/// other paths.
std::optional<std::string> own_descriptor(std::string_view path) {
  if (path == "/dev/stdout") return "1";
  if (path == "/dev/stderr") return "2";
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"})
    if (path.starts_with(folder)) {
      const std::string_view number = path.substr(folder.size());
      if (!number.empty() && number.find_first_not_of("0123456789") == std::string_view::npos)
        return std::string{number};
    }
  return std::nullopt;
}

std::uint64_t size_of(int file) {
  const off_t end = ::lseek(file, 0, SEEK_END);
  return end < 0 ? 0 : static_cast<std::uint64_t>(end);
}

/// Where a file's data begin. None: at its end.
std::uint64_t hole_before_data(int file) {
  const off_t data = ::lseek(file, 0, SEEK_DATA);
  if (data >= 0) return static_cast<std::uint64_t>(data);
  return errno == ENXIO ? size_of(file) : 0;
}

/// In a directory that others can write to, another user could have made the file to read what we write.
Status check_line_sink(int file, const std::string& path, std::string_view what) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return fail_errno(ErrorKind::System, "{} {} cannot be looked at", what, path);
  if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)) return {};
  if (!S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "{} {} is no regular file, FIFO or character device; give the path of one",
                what, path);
  if (status.st_uid == 0 || status.st_uid == ::geteuid()) return {};
  return fail(ErrorKind::Permission,
              "{} {} is a file of user {}, and this is user {}: its owner could read what is written there; remove it, "
              "or give another path",
              what, path, status.st_uid, ::geteuid());
}

}  // namespace

Status check_bound(int file, std::string_view path) {
  struct stat status{};
  if (::fstat(file, &status) == 0 && S_ISREG(status.st_mode)) return {};
  return fail(ErrorKind::InvalidArgument, "max_bytes needs a regular file, whose oldest bytes can be freed; {} is none",
              path.empty() ? "where output goes" : path);
}

Result<OwnedFd> open_line_sink(const std::string& path, std::string_view what) {
  const auto own = own_descriptor(path);
  const std::string opened = own ? "/proc/self/fd/" + *own : path;
  // Opened for reading too: a FIFO without a reader then opens, and one whose reader leaves gives EAGAIN, not SIGPIPE.
  const int flags = O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | (own ? 0 : O_NOFOLLOW);
  OwnedFd file{::open(opened.c_str(), flags, 0600)};
  if (!file && errno == ELOOP && !own)
    return fail(ErrorKind::InvalidArgument,
                "{} {} is a link, which could lead to any file; give the path of the file itself", what, path);
  if (!file) return fail_errno(ErrorKind::System, "{} {} cannot be opened for writing", what, path);
  if (!own)
    if (auto good = check_line_sink(file.get(), path, what); !good) return propagate(good);
  return file;
}

std::size_t write_now(int fd, std::string_view text) noexcept {
  pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
  if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) return 0;
  ssize_t written = 0;
  do {
    written = ::write(fd, text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  return written < 0 ? 0 : static_cast<std::size_t>(written);
}

bool write_whole_line(int fd, std::string_view line) noexcept { return write_now(fd, line) == line.size(); }

Status Log::configure(const LoggerConfig& config) {
  OwnedFd file;
  if (config.log_path) {
    auto opened = open_line_sink(*config.log_path, "log_path");
    if (!opened) return propagate(opened);
    file = std::move(*opened);
  }
  const MutexLock lock{mutex_};
  if (config.max_bytes || kept_)
    if (auto good = check_bound(file ? file.get() : this->file(), config.log_path.value_or("")); !good)
      return propagate(good);
  if (file) {
    descriptor_.store(file.get(), std::memory_order_relaxed);  // before the old one closes
    file_ = std::move(file);
    trimming_ = false;
    ++file_number_;
    greet();
  }
  if (config.level) level_.store(*config.level, std::memory_order_relaxed);
  if (config.show_level) show_level_ = *config.show_level;
  if (config.show_log_origin) show_origin_ = *config.show_log_origin;
  if (config.module) module_ = *config.module;
  if (config.max_bytes || kept_) {
    kept_.emplace(config.max_bytes ? *config.max_bytes : kept_->most(), hole_before_data(this->file()));
    size_ = size_of(this->file());
  }
  return {};
}

int Log::file() const { return file_ ? file_.get() : STDERR_FILENO; }

void Log::on_trim_wanted(std::function<void()> wanted) {
  const MutexLock lock{mutex_};
  trim_wanted_ = std::move(wanted);
}

bool Log::has_room(std::size_t bytes) {
  if (!kept_) return true;
  if (!trimming_ && trim_wanted_ && !kept_->has_room(size_, bytes + kept_->most() / 4)) {
    trimming_ = true;
    trim_wanted_();
  }
  return kept_->has_room(size_, bytes);
}

std::optional<Log::Trim> Log::begin_trim() {
  const MutexLock lock{mutex_};
  if (!trimming_) return std::nullopt;
  trimming_ = false;
  if (!kept_) return std::nullopt;
  size_ = size_of(file());  // others may write to it, and truncate it
  const auto range = kept_->to_free(size_, kept_->most() / 4);
  if (!range) return std::nullopt;
  OwnedFd copy{::fcntl(file(), F_DUPFD_CLOEXEC, 0)};  // the log may get another file meanwhile
  if (!copy) return std::nullopt;
  trimming_ = true;
  return Trim{.file = std::move(copy), .range = *range, .number = file_number_};
}

void Log::end_trim(const Trim& trim, bool freed) {
  const MutexLock lock{mutex_};
  if (trim.number != file_number_) return;  // it has another file by now
  trimming_ = false;
  if (kept_ && freed) kept_->freed(trim.range);
}

// What fmt throws is of formats that are wrong, and these are checked when they are compiled.
void Log::urgent(std::string_view message) const noexcept {  // NOLINT(bugprone-exception-escape)
  std::array<char, 512> line;
  char* end = format_time(line.data());
  end = fmt::format_to(end, " [{}:{}] ", id_, kLevelNames[static_cast<std::size_t>(LogLevel::Error)]);
  message = message.substr(0, static_cast<std::size_t>(line.data() + line.size() - end) - 1);
  end = std::ranges::copy(message, end).out;
  *end++ = '\n';
  (void)write_whole_line(descriptor_.load(std::memory_order_relaxed), {line.data(), end});
}

bool Log::on_standard_error() {
  const MutexLock lock{mutex_};
  return !file_;
}

void Log::greet() {
  if (greeting_.empty()) return;
  greeting_.push_back('\n');
  if (!write_whole_line(file_.get(), greeting_)) missed_.fetch_add(1, std::memory_order_relaxed);
  greeting_.clear();
}

void Log::write_line(LogLevel level, std::string_view file, int line, std::string_view message) {
  const MutexLock lock{mutex_};
  if (!module_.empty() && file.find(module_) == std::string_view::npos) return;
  fmt::memory_buffer text;
  format_time(std::back_inserter(text));
  fmt::format_to(std::back_inserter(text), " [{}", id_);
  if (show_level_) fmt::format_to(std::back_inserter(text), ":{}", kLevelNames[static_cast<std::size_t>(level)]);
  if (show_origin_) fmt::format_to(std::back_inserter(text), ":{}:{}", file, line);
  text.append(std::string_view{"] "});
  const std::size_t begin = text.size();
  text.append(message);
  mask_controls({text.data() + begin, text.size() - begin});
  if (text.size() >= kMaximumLine) text.resize(kMaximumLine - 1);
  text.push_back('\n');
  if (has_room(text.size()) && write_whole_line(this->file(), {text.data(), text.size()}))
    size_ += text.size();
  else
    missed_.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace mayfly
