#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// Requests of a FUSE file system that are answered late or never: what a slow disk does, and a hung one.
namespace mayfly::testing {

struct DiskRequest {
  enum class Kind { Read, Write, Sync, Create, Other };
  Kind kind = Kind::Other;
  std::string name{};    ///< Of the file.
  std::size_t size = 0;  ///< In bytes, of Read and Write.
};

/// For each request that arrives: microseconds until it is answered; 0: at once. Runs on the file system's thread.
using DiskDelay = std::function<double(const DiskRequest&)>;

inline constexpr double kNeverAnswered = std::numeric_limits<double>::infinity();

/// What waits. For one thread.
class HeldRequests {
 public:
  struct Held {
    std::vector<std::byte> message;  ///< As the kernel sent it, its fuse_in_header first.
    double due_us;                   ///< CLOCK_MONOTONIC
  };

  void add(std::span<const std::byte> message, double delay_us);
  /// All are due now.
  void release();
  /// One whose time has come; the earliest first.
  [[nodiscard]] std::optional<Held> take_due();
  /// One whose thread is being killed. FUSE itself lets a killed process wait for an answer, which makes it impossible
  /// to kill. Other storage ends the wait (NFS does), and so does who refuses these requests with EINTR.
  [[nodiscard]] std::optional<Held> take_killed();
  /// How long poll(2) may wait, in milliseconds; -1: nothing is held.
  [[nodiscard]] int poll_timeout() const;
  [[nodiscard]] std::size_t count() const noexcept { return held_.size(); }

 private:
  std::vector<Held> held_;  // a few
  double next_look_us_ = 0;
};

}  // namespace mayfly::testing
