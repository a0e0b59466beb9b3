#pragma once

#include "tests/support/child_process.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

/// A Linux guest under one of two monitors, with a drive and a network, whose shell answers lines on its console.
///
///   const LinuxFiles files{.kernel = ..., .root = ..., .disk = ..., .tap = "tap0"};
///   auto guest = boot_mayfly(scratch, "build/release/mayfly", files, {});
///   guest->ask("hello");                  // "ans-hello": milliseconds
///   guest->run("dd if=/dev/vdb ...");     // a command of the guest's: milliseconds until it has ended
///   guest->ping(500);                     // from the host: milliseconds, each on average
///
/// Needs hardware virtualization (or the lab), root and the TAP with address kHostAddress. What goes wrong throws
/// std::runtime_error.
namespace mayfly::perf {

inline constexpr const char* kHostAddress = "10.9.0.1";
inline constexpr const char* kGuestAddress = "10.9.0.2";

/// What a guest is made of. The guest sees its root file system as /dev/vda and the disk as /dev/vdb.
struct LinuxFiles {
  std::string kernel;
  std::string root;
  std::string disk;
  std::string tap;
};

class LinuxGuest {
 public:
  LinuxGuest(const LinuxGuest&) = delete;
  LinuxGuest& operator=(const LinuxGuest&) = delete;
  virtual ~LinuxGuest() = default;

  /// Types a line, and waits for the shell's answer to it.
  double ask(const std::string& word);
  /// Has the shell run a command that says nothing.
  double run(const std::string& command);
  /// One ICMP echo after the other.
  [[nodiscard]] static double ping(unsigned count);
  /// One ICMP echo, without a look-up of the guest's address once there was another.
  static void ping_once();
  /// A file of about a kilobyte by HTTP, on a connection of its own; tries again where nobody listens yet.
  [[nodiscard]] static double get_page();

 protected:
  LinuxGuest() = default;
  /// Waits for the shell.
  void await_ready();
  testing::Pipe keys_;
  testing::Pipe console_;
  std::string shown_;
};

class MayflyGuest final : public LinuxGuest {
 public:
  /// A monitor that has answered once and waits, as those of a pool do.
  MayflyGuest(const testing::ScratchDirectory& scratch, const std::string& monitor,
              const std::vector<std::string>& launcher = {}, const std::vector<std::string>& more = {});
  /// Ends the monitor, so that disk and TAP are free for the next one.
  ~MayflyGuest() override;
  void boot(const LinuxFiles& files, unsigned vcpus, const std::string& huge_pages);
  /// Pauses the guest; the snapshot's names begin with `prefix`.
  void save(const std::string& prefix) const;
  struct LoadOptions {
    std::string working_set{};  ///< "Record" or "Replay"; "" without.
    std::string set_path{};
    std::string huge_pages{};   ///< Of the API; "" as the snapshot has it.
    std::string memory_path{};  ///< A copy of the memory file; "" where save() left it.
    std::string disk{};         ///< With a new overlay over the disk, the guest can be taken back.
    std::string overlay{};
  };
  /// What save() left. Milliseconds to the request's answer.
  double load(const std::string& prefix, const LoadOptions& options) const;
  /// Takes a guest that can go back to its snapshot, running. Milliseconds to the request's answer.
  [[nodiscard]] double revert() const;
  void must(const std::string& method, const std::string& path, const std::string& body) const;
  /// All counters of GET /metrics/prometheus.
  [[nodiscard]] std::map<std::string, double> metrics() const;
  [[nodiscard]] testing::ChildProcess& process() noexcept { return process_; }

 private:
  std::string socket_;
  testing::SocketWaiter waiter_;
  testing::ChildProcess process_;
  OwnedFd connection_;
};

/// QEMU's microvm machine, with as little in it as ours has.
class QemuGuest final : public LinuxGuest {
 public:
  enum class Vhost { Off, On };
  QemuGuest(const LinuxFiles& files, unsigned vcpus, Vhost vhost);
  ~QemuGuest() override;

 private:
  testing::ChildProcess process_;
};

/// The main function of a benchmark of Linux guests, whose arguments perf/lab_guest gives. What `run` throws is told on
/// standard error.
int linux_benchmark_main(
    int argc, char** argv,
    const std::function<int(const std::vector<std::string>& monitors, const LinuxFiles& files, int rounds)>& run);

}  // namespace mayfly::perf
