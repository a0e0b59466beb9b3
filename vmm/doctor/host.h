#pragma once

#include "vmm/doctor/finding.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The host as the checks see it: files below a root, and the few things that only a system call tells. Tests put a
/// directory of their own and answers of their own in their place.
namespace mayfly {

/// A host's file system. Names are relative to its root: "proc/swaps".
class HostRoot {
 public:
  explicit HostRoot(std::filesystem::path path = "/") : path_(std::move(path)) {}

  /// The whole of a text file without white space at its end; nullopt where it cannot be read. For /proc and /sys: at
  /// most kMaximumFile bytes are read.
  [[nodiscard]] std::optional<std::string> read(std::string_view name) const;
  /// The same as a decimal number; nullopt where it does not start with one.
  [[nodiscard]] std::optional<std::int64_t> read_number(std::string_view name) const;
  [[nodiscard]] bool exists(std::string_view name) const;
  /// The names in a directory, sorted; empty where there is none.
  [[nodiscard]] std::vector<std::string> list(std::string_view name) const;
  [[nodiscard]] std::string path(std::string_view name) const { return (path_ / name).string(); }

  static constexpr std::size_t kMaximumFile = 4 << 20;  // /proc/cpuinfo of a thousand CPUs is below 2 MiB

 private:
  std::filesystem::path path_;
};

/// The system calls of the checks.
class HostCalls {
 public:
  /// What /dev/kvm answers: its API version, and the value of each capability that was asked for, in that order.
  struct KvmAnswers {
    int api_version = 0;
    std::vector<int> capabilities;
  };

  HostCalls() = default;
  HostCalls(const HostCalls&) = delete;
  HostCalls& operator=(const HostCalls&) = delete;
  virtual ~HostCalls() = default;

  /// Opens for reading and writing and closes again: 0, or the errno.
  [[nodiscard]] virtual int try_open(const std::string& path) const = 0;
  /// Opens KVM's device and asks; nullopt where it cannot be opened.
  [[nodiscard]] virtual std::optional<KvmAnswers> ask_kvm(const std::string& path,
                                                          std::span<const int> capabilities) const = 0;
  /// Makes a descriptor for user faults, by the device at `path` or else by the system call, and closes it again: 0, or
  /// the errno.
  [[nodiscard]] virtual int try_user_faults(const std::string& path) const = 0;
  /// Makes the smallest ring and closes it again: 0, or the errno.
  [[nodiscard]] virtual int try_io_uring() const = 0;
  /// Which version of Landlock the kernel has; 0: none.
  [[nodiscard]] virtual int landlock_version() const = 0;
};

/// The calls of the host we are on.
[[nodiscard]] const HostCalls& real_host_calls();

/// Whether `words`, separated by white space, has `word`.
[[nodiscard]] bool has_word(std::string_view words, std::string_view word) noexcept;

}  // namespace mayfly
